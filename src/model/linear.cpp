#include "model/linear.h"

#include <ATen/ops/linear.h>

#include <utility>

#include "core/error.h"

namespace gsa::model {

Linear::Linear(at::Tensor weight, at::Tensor bias)
    : weight_(std::move(weight)), bias_(std::move(bias)) {}

void Linear::add_lora(Lora lora) {
  const bool fits = lora.a.dim() == 2 && lora.b.dim() == 2 && lora.a.size(0) == lora.b.size(1) &&
                    lora.a.size(1) == weight_.size(1) && lora.out_begin >= 0 &&
                    lora.out_begin + lora.b.size(0) <= weight_.size(0);
  if (!fits) {
    core::internal_error("linear: a low-rank update does not fit a weight of {} x {}",
                         weight_.size(0), weight_.size(1));
  }
  loras_.push_back(std::move(lora));
}

at::Tensor Linear::operator()(const at::Tensor& x) const {
  at::Tensor y = at::linear(x, weight_, bias_);
  for (const Lora& lora : loras_) {
    const at::Tensor low = at::linear(x, lora.a.to(x.scalar_type()));       // [..., r]
    const at::Tensor update = at::linear(low, lora.b.to(x.scalar_type()));  // [..., out']
    y.narrow(-1, lora.out_begin, lora.b.size(0)).add_(update, lora.scale);
  }
  return y;
}

}  // namespace gsa::model
