#include "model/swiglu.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/mul.h>
#include <ATen/ops/silu.h>
#include <ATen/ops/silu_backward.h>
#include <torch/csrc/autograd/custom_function.h>

#include "attention/device_stream.h"
#include "kernels/cuda/row_ops.h"
#include "model/cpu_rows.h"

namespace gsa::model {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

at::Tensor half_of(const at::Tensor& gate_up, int which) {
  const std::int64_t width = gate_up.size(-1) / 2;
  return gate_up.narrow(-1, which * width, width);
}

bool kernel_takes(const at::Tensor& gate_up) {
  return attention::kernels_take(gate_up) && gate_up.is_contiguous() && gate_up.size(-1) % 16 == 0;
}

at::Tensor evaluate(const at::Tensor& gate_up) {
  if (kernel_takes(gate_up)) {
    const std::int64_t width = gate_up.size(-1) / 2;
    at::Tensor out = at::empty_like(half_of(gate_up, 0), at::MemoryFormat::Contiguous);
    kernels::sm80_bf16_swiglu(gate_up.const_data_ptr(), out.mutable_data_ptr(), out.numel() / width,
                              width, attention::CurrentStream(gate_up.device()));
    return out;
  }
  if (cpu_rows_take(gate_up)) return swiglu_cpu_rows(gate_up);
  return at::silu(half_of(gate_up, 0)).mul_(half_of(gate_up, 1));
}

struct SwigluFunction : torch::autograd::Function<SwigluFunction> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& gate_up) {
    ctx->save_for_backward({gate_up});
    return evaluate(gate_up);
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const at::Tensor gate_up = ctx->get_saved_variables()[0];
    at::Tensor grad = at::empty_like(gate_up);
    if (kernel_takes(gate_up)) {
      const std::int64_t width = gate_up.size(-1) / 2;
      const at::Tensor grad_out = grads[0].contiguous();
      kernels::sm80_bf16_swiglu_backward(gate_up.const_data_ptr(), grad_out.const_data_ptr(),
                                         grad.mutable_data_ptr(), grad_out.numel() / width, width,
                                         attention::CurrentStream(gate_up.device()));
      return {grad};
    }
    const at::Tensor gate = half_of(gate_up, 0), up = half_of(gate_up, 1);
    at::Tensor grad_gate = half_of(grad, 0), grad_up = half_of(grad, 1);
    at::silu_backward_out(grad_gate, grads[0].mul(up), gate);
    at::mul_out(grad_up, grads[0], at::silu(gate));
    return {grad};
  }
};

}  // namespace

at::Tensor swiglu(const at::Tensor& gate_up) {
  const bool needs_grad = at::GradMode::is_enabled() && gate_up.requires_grad();
  return needs_grad ? SwigluFunction::apply(gate_up) : evaluate(gate_up);
}

}  // namespace gsa::model
