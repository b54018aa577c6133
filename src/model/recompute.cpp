#include "model/recompute.h"

#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/custom_function.h>

#include <utility>

namespace gsa::model {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;
using Body = std::function<at::Tensor(const at::Tensor&)>;

struct Holder : torch::CustomClassHolder {
  explicit Holder(Body body) : f(std::move(body)) {}
  Body f;
};

struct RecomputeFunction : torch::autograd::Function<RecomputeFunction> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x, at::TensorList tensors,
                            const c10::intrusive_ptr<Holder>& holder) {
    variable_list saved{x};
    saved.insert(saved.end(), tensors.begin(), tensors.end());
    ctx->save_for_backward(std::move(saved));
    ctx->saved_data["body"] = c10::IValue::make_capsule(holder);
    const at::AutoGradMode with_grad(true);  // the graph is dropped on return
    return holder->f(x.detach().requires_grad_(x.requires_grad())).detach();
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const auto holder = ctx->saved_data["body"].toCapsule();
    const variable_list saved = ctx->get_saved_variables();
    const at::AutoGradMode with_grad(true);
    const at::Tensor x = saved[0].detach().requires_grad_(saved[0].requires_grad());
    const at::Tensor y = static_cast<const Holder&>(*holder).f(x);
    // Gradients of exactly these tensors: those of leaves are added up by the graph that this
    // function is part of, where hooks wait for them.
    variable_list inputs(saved.begin() + 1, saved.end());
    if (x.requires_grad()) inputs.push_back(x);
    variable_list result = torch::autograd::grad({y}, inputs, {grads[0]}, std::nullopt,
                                                 /*create_graph=*/false, /*allow_unused=*/true);
    at::Tensor grad_x;
    if (x.requires_grad()) {
      grad_x = std::move(result.back());
      result.pop_back();
    }
    result.insert(result.begin(), std::move(grad_x));
    result.emplace_back();  // holder
    return result;
  }
};

}  // namespace

at::Tensor recomputed(Body f, const at::Tensor& x, const std::vector<at::Tensor>& tensors) {
  if (!at::GradMode::is_enabled() || (tensors.empty() && !x.requires_grad())) return f(x);
  return RecomputeFunction::apply(x, at::TensorList(tensors),
                                  c10::make_intrusive<Holder>(std::move(f)));
}

}  // namespace gsa::model
