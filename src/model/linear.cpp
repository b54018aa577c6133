#include "model/linear.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/linear.h>

#include <algorithm>
#include <functional>
#include <utility>
#include <vector>

#include "core/error.h"
#include "core/quant.h"

namespace gsa::model {

Linear::Linear(at::Tensor weight, at::Tensor bias)
    : weight_(std::move(weight)), bias_(std::move(bias)) {}

Linear::Linear(std::shared_ptr<const PackedMatrix> packed, at::Tensor bias)
    : packed_(std::move(packed)), bias_(std::move(bias)) {}

void Linear::add_lora(Lora lora) {
  const bool fits = lora.a.dim() == 2 && lora.b.dim() == 2 && lora.a.size(0) == lora.b.size(1) &&
                    lora.a.size(1) == num_in() && lora.out_begin >= 0 &&
                    lora.out_begin + lora.b.size(0) <= num_out();
  if (!fits) {
    core::internal_error("linear: a low-rank update does not fit a weight of {} x {}", num_out(),
                         num_in());
  }
  loras_.push_back(std::move(lora));
}

Linear Linear::base() const { return packed_ ? Linear(packed_, bias_) : Linear(weight_, bias_); }

Linear Linear::merged() const {
  if (loras_.empty()) return *this;
  if (!packed_) return Linear(merged_weight(at::kFloat).to(weight_.scalar_type()), bias_);
  std::vector<at::Tensor> blocks;  // keep the bytes alive
  std::vector<kernels::MatrixView> parts;
  const at::Tensor merged = merged_weight(at::kFloat);
  std::int64_t begin = 0;
  for (const kernels::MatrixView& part : packed_->parts()) {
    const bool has_blocks = core::block_len(part.type) > 1;
    const core::DataType type = has_blocks ? core::DataType::q8_0 : part.type;
    const at::Tensor rows = merged.narrow(0, begin, part.num_rows).contiguous();
    const std::int64_t num_bytes = core::data_bytes(type, rows.numel());
    const at::Tensor& bytes = blocks.emplace_back(at::empty({num_bytes}, at::kByte));
    core::quantize(
        type, {rows.const_data_ptr<float>(), static_cast<std::size_t>(rows.numel())},
        {static_cast<std::byte*>(bytes.mutable_data_ptr()), static_cast<std::size_t>(num_bytes)});
    parts.push_back({type, bytes.const_data_ptr(), part.num_rows, part.num_cols});
    begin += part.num_rows;
  }
  return Linear(std::make_shared<const PackedMatrix>(
                    std::move(parts), std::make_shared<std::vector<at::Tensor>>(std::move(blocks))),
                bias_);
}

bool Linear::trains() const {
  return at::GradMode::is_enabled() && std::ranges::any_of(loras_, [](const Lora& lora) {
           return lora.a.requires_grad() || lora.b.requires_grad();
         });
}

at::Tensor Linear::merged_weight(at::ScalarType dtype) const {
  std::vector<Lora> ordered = loras_;
  std::ranges::stable_sort(ordered, {}, &Lora::out_begin);
  const at::Tensor weight = packed_ ? packed_->expand(0, num_out(), dtype) : weight_;
  std::vector<at::Tensor> rows;
  std::int64_t end = 0;
  const auto keep = [&](std::int64_t until) {
    if (until > end) rows.push_back(weight.narrow(0, end, until - end).to(dtype));
  };
  for (const Lora& lora : ordered) {
    if (lora.out_begin < end) core::internal_error("linear: updates under training overlap");
    keep(lora.out_begin);
    end = lora.out_begin + lora.b.size(0);
    const at::Tensor base = weight.narrow(0, lora.out_begin, lora.b.size(0));
    rows.push_back(at::addmm(base.to(dtype), lora.b.to(dtype), lora.a.to(dtype), 1, lora.scale));
  }
  keep(num_out());
  return at::cat(rows);
}

at::Tensor Linear::multiply(const at::Tensor& x) const {
  if (!packed_) return at::linear(x, weight_, bias_);
  std::vector<std::int64_t> shape = x.sizes().vec();
  shape.back() = num_out();
  at::Tensor y = packed_->multiply(x.flatten(0, -2)).view(shape);
  return bias_.defined() ? y.add_(bias_) : y;
}

at::Tensor Linear::operator()(const at::Tensor& x) const {
  if (trains()) {
    const auto dtype = loras_.front().a.scalar_type();
    return at::linear(x, merged_weight(dtype).to(x.scalar_type()), bias_);
  }
  at::Tensor y = multiply(x);
  for (const Lora& lora : loras_) {
    const at::Tensor low = at::linear(x, lora.a.to(x.scalar_type()));       // [..., r]
    const at::Tensor update = at::linear(low, lora.b.to(x.scalar_type()));  // [..., out']
    y.narrow(-1, lora.out_begin, lora.b.size(0)).add_(update, lora.scale);
  }
  return y;
}

}  // namespace gsa::model
