#include "train/optimizer.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/_foreach_norm.h>
#include <ATen/ops/_fused_adamw.h>
#include <ATen/ops/isfinite.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

namespace gsa::train {

Optimizer::Optimizer(const std::vector<Parameter>& parameters, const OptimizerOptions& options)
    : options_(options) {
  using Kind = Parameter::Kind;
  for (const Kind kind : {Kind::matrix, Kind::vector, Kind::gist}) {
    Group group;
    group.lr = kind == Kind::gist ? options.gist_lr : options.lr;
    group.weight_decay = kind == Kind::matrix ? options.weight_decay : 0;
    for (const Parameter& parameter : parameters) {
      if (parameter.kind != kind) continue;
      group.names.push_back(parameter.name);
      group.tensors.push_back(parameter.tensor);
      group.first_moments.push_back(at::zeros_like(parameter.tensor.detach()));
      group.second_moments.push_back(at::zeros_like(parameter.tensor.detach()));
    }
    if (!group.tensors.empty()) groups_.push_back(std::move(group));
  }
  step_ = at::zeros({}, parameters.front().tensor.options().requires_grad(false));
}

at::Tensor Optimizer::step(std::int64_t step, double lr_factor) {
  const at::NoGradGuard no_grad;
  std::vector<std::vector<at::Tensor>> grads;
  std::vector<at::Tensor> norms;
  for (const Group& group : groups_) {
    auto& of_group = grads.emplace_back();
    for (const at::Tensor& tensor : group.tensors) of_group.push_back(tensor.grad());
    for (at::Tensor& norm : at::_foreach_norm(of_group)) norms.push_back(std::move(norm));
  }
  const at::Tensor norm = at::stack(norms).norm();
  const at::Tensor divisor = norm.div(options_.max_norm).clamp_min(1);
  const at::Tensor is_bad = at::isfinite(norm).logical_not().to(at::kFloat);
  step_.fill_(static_cast<double>(step + 1));
  for (std::size_t i = 0; i < groups_.size(); ++i) {
    Group& group = groups_[i];
    const std::vector<at::Tensor> steps(group.tensors.size(), step_);
    at::_fused_adamw_(group.tensors, grads[i], group.first_moments, group.second_moments, {}, steps,
                      group.lr * lr_factor, options_.beta1, options_.beta2, group.weight_decay,
                      options_.epsilon, /*amsgrad=*/false, /*maximize=*/false,
                      /*grad_scale=*/divisor, /*found_inf=*/is_bad);
  }
  return norm;
}

std::vector<std::pair<std::string, at::Tensor>> Optimizer::state() const {
  std::vector<std::pair<std::string, at::Tensor>> all;
  for (const Group& group : groups_) {
    for (std::size_t i = 0; i < group.names.size(); ++i) {
      all.emplace_back("first_moment." + group.names[i], group.first_moments[i]);
      all.emplace_back("second_moment." + group.names[i], group.second_moments[i]);
    }
  }
  return all;
}

}  // namespace gsa::train
