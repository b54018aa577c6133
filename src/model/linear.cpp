#include "model/linear.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/linear.h>

#include <algorithm>
#include <functional>
#include <utility>
#include <vector>

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

bool Linear::trains() const {
  return at::GradMode::is_enabled() && std::ranges::any_of(loras_, [](const Lora& lora) {
           return lora.a.requires_grad() || lora.b.requires_grad();
         });
}

/// weight + sum of scale * B A, in the dtype of the updates.
at::Tensor Linear::merged_weight() const {
  std::vector<Lora> ordered = loras_;
  std::ranges::stable_sort(ordered, {}, &Lora::out_begin);
  std::vector<at::Tensor> rows;
  std::int64_t end = 0;
  const auto keep = [&](std::int64_t until) {
    if (until > end) rows.push_back(weight_.narrow(0, end, until - end).to(ordered[0].a.dtype()));
  };
  for (const Lora& lora : ordered) {
    if (lora.out_begin < end) core::internal_error("linear: updates under training overlap");
    keep(lora.out_begin);
    end = lora.out_begin + lora.b.size(0);
    const at::Tensor base = weight_.narrow(0, lora.out_begin, lora.b.size(0));
    rows.push_back(at::addmm(base.to(lora.a.dtype()), lora.b, lora.a, 1, lora.scale));
  }
  keep(weight_.size(0));
  return at::cat(rows);
}

at::Tensor Linear::operator()(const at::Tensor& x) const {
  if (trains()) return at::linear(x, merged_weight().to(x.scalar_type()), bias_);
  at::Tensor y = at::linear(x, weight_, bias_);
  for (const Lora& lora : loras_) {
    const at::Tensor low = at::linear(x, lora.a.to(x.scalar_type()));       // [..., r]
    const at::Tensor update = at::linear(low, lora.b.to(x.scalar_type()));  // [..., out']
    y.narrow(-1, lora.out_begin, lora.b.size(0)).add_(update, lora.scale);
  }
  return y;
}

}  // namespace gsa::model
