#include "train/loss.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/full.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/log_softmax.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/zeros.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>

#include "attention/device_stream.h"
#include "core/error.h"
#include "kernels/cuda/row_ops.h"

namespace gsa::train {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

struct LossTerms {
  at::Tensor loss;         // scalar f32
  at::Tensor grad_hidden;  // [R, hidden] in the dtype of hidden, or undefined
  at::Tensor grad_weight;  // [vocab, hidden] f32, or undefined
};

struct Problem {
  at::Tensor hidden, weight, labels;
  double scale = 1;
  const Teacher* teacher = nullptr;
  std::int64_t block_rows = 0;
  bool needs_hidden = false, needs_weight = false;
};

bool kernel_takes(const Problem& problem, const at::Tensor& logits) {
  return problem.teacher == nullptr && attention::kernels_take(logits) && logits.is_contiguous() &&
         logits.size(1) % 8 == 0;
}

/// Adds one block's loss and returns d(loss) / d(logits), unscaled, perhaps in place of the logits.
at::Tensor block_loss(const Problem& problem, std::int64_t begin, std::int64_t count,
                      const at::Tensor& logits, const at::Tensor& total) {
  if (kernel_takes(problem, logits)) {
    const at::Tensor losses = at::empty({count}, total.options());
    const at::Tensor some = problem.labels.narrow(0, begin, count).contiguous();
    kernels::sm80_bf16_cross_entropy(logits.mutable_data_ptr(), some.const_data_ptr<std::int64_t>(),
                                     losses.mutable_data_ptr<float>(), count, logits.size(1),
                                     attention::CurrentStream(logits.device()));
    total.add_(losses.sum());
    return logits;
  }
  const at::Tensor labels = problem.labels.narrow(0, begin, count).unsqueeze(1);  // [B, 1]
  at::Tensor log_p = at::log_softmax(logits, -1, at::kFloat);                     // [B, vocab]
  const double share = problem.teacher != nullptr ? problem.teacher->share : 0;
  total.sub_(log_p.gather(1, labels).sum(), 1 - share);
  at::Tensor teacher_p;
  if (share > 0) {
    const at::Tensor theirs =
        at::linear(problem.teacher->hidden.narrow(0, begin, count), problem.teacher->weight);
    const at::Tensor teacher_log_p = at::log_softmax(theirs, -1, at::kFloat);
    teacher_p = teacher_log_p.exp();
    total.add_(teacher_log_p.sub(log_p).mul_(teacher_p).sum(), share);
  }
  if (!problem.needs_hidden && !problem.needs_weight) return {};
  // (1 - w) (p - label) + w (p - teacher) = p - (1 - w) label - w teacher
  at::Tensor grad = log_p.exp_();
  grad.scatter_add_(1, labels, at::full({1, 1}, share - 1, grad.options()).expand({count, 1}));
  if (share > 0) grad.sub_(teacher_p, share);
  return grad.to(logits.scalar_type());
}

LossTerms compute(const Problem& problem) {
  const at::NoGradGuard no_grad;
  const auto options = problem.hidden.options().dtype(at::kFloat).requires_grad(false);
  LossTerms terms;
  terms.loss = at::zeros({}, options);
  if (problem.needs_hidden) terms.grad_hidden = at::empty_like(problem.hidden);
  if (problem.needs_weight) terms.grad_weight = at::zeros(problem.weight.sizes(), options);
  const std::int64_t num_rows = problem.hidden.size(0);
  for (std::int64_t begin = 0; begin < num_rows; begin += problem.block_rows) {
    const std::int64_t count = std::min(problem.block_rows, num_rows - begin);
    const at::Tensor hidden = problem.hidden.narrow(0, begin, count);
    const at::Tensor grad =
        block_loss(problem, begin, count, at::linear(hidden, problem.weight), terms.loss);
    if (problem.needs_hidden) {
      // Scaled here, by a number of the host: a scalar tensor would be rounded to bf16 first.
      terms.grad_hidden.narrow(0, begin, count)
          .copy_(at::mm(grad, problem.weight).mul_(problem.scale));
    }
    if (problem.needs_weight) terms.grad_weight.add_(at::mm(grad.t(), hidden), problem.scale);
  }
  terms.loss.mul_(problem.scale);
  return terms;
}

struct LossFunction : torch::autograd::Function<LossFunction> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& hidden,
                            const at::Tensor& weight, Problem problem) {
    problem.hidden = hidden.detach();
    problem.weight = weight.detach();
    const LossTerms terms = compute(problem);
    ctx->save_for_backward({terms.grad_hidden, terms.grad_weight});
    ctx->saved_data["dtype"] = static_cast<std::int64_t>(weight.scalar_type());
    return terms.loss;
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const variable_list saved = ctx->get_saved_variables();
    const auto dtype = static_cast<at::ScalarType>(ctx->saved_data["dtype"].toInt());
    const auto times = [&](const at::Tensor& grad) {
      return grad.defined() ? grad.mul(grads[0]) : at::Tensor();
    };
    at::Tensor grad_weight = times(saved[1]);
    if (grad_weight.defined()) grad_weight = grad_weight.to(dtype);
    return {times(saved[0]), grad_weight, {}};
  }
};

}  // namespace

at::Tensor token_loss(const at::Tensor& hidden, const at::Tensor& weight, const at::Tensor& labels,
                      double scale, const Teacher* teacher, std::int64_t block_rows) {
  if (hidden.dim() != 2 || labels.dim() != 1 || hidden.size(0) != labels.size(0) ||
      weight.size(1) != hidden.size(1)) {
    core::internal_error("token_loss: {} rows of width {} for {} labels and an output of width {}",
                         hidden.size(0), hidden.size(-1), labels.numel(), weight.size(1));
  }
  Problem problem{hidden, weight, labels, scale, teacher, block_rows};
  if (!at::GradMode::is_enabled()) return compute(problem).loss;
  problem.needs_hidden = hidden.requires_grad();
  problem.needs_weight = weight.requires_grad();
  return LossFunction::apply(hidden, weight, problem);
}

}  // namespace gsa::train
