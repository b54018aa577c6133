#include "model/cpu_rows.h"

#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>

#include <algorithm>
#include <vector>

#include "kernels/cpu/row_ops.h"

namespace gsa::model {
namespace {

// Values below which another thread costs more than it saves.
constexpr std::int64_t kMinTaskValues = 1 << 15;

/// Rows of a tensor, read into f32 and written from it, or in place where it is f32.
class Rows {
 public:
  Rows(const at::Tensor& x, std::int64_t width)
      : is_bf16_(x.scalar_type() == at::kBFloat16), width_(width), data_(x.mutable_data_ptr()) {}

  std::int64_t width() const { return width_; }

  const float* read(std::int64_t row, std::vector<float>& scratch) const {
    if (!is_bf16_) return static_cast<const float*>(data_) + row * width_;
    kernels::to_f32(static_cast<const kernels::Bf16*>(data_) + row * width_, width_,
                    scratch.data());
    return scratch.data();
  }

  /// Where a row may be put together before `write` takes it.
  float* place(std::int64_t row, std::vector<float>& scratch) const {
    return is_bf16_ ? scratch.data() : static_cast<float*>(data_) + row * width_;
  }

  void write(std::int64_t row, const float* values) const {
    if (is_bf16_)
      kernels::to_bf16(values, width_, static_cast<kernels::Bf16*>(data_) + row * width_);
  }

 private:
  bool is_bf16_;
  std::int64_t width_;
  void* data_;
};

/// out[i] = make(in[i], i) for `num_rows` rows: make(const float* in, row, float* out).
template <typename F>
void for_each_row(std::int64_t num_rows, const Rows& in, const Rows& out, F make) {
  const std::int64_t grain = std::max<std::int64_t>(1, kMinTaskValues / in.width());
  at::parallel_for(0, num_rows, grain, [&](std::int64_t begin, std::int64_t end) {
    std::vector<float> read(static_cast<std::size_t>(in.width()));
    std::vector<float> made(static_cast<std::size_t>(out.width()));
    for (std::int64_t row = begin; row < end; ++row) {
      float* const values = out.place(row, made);
      make(in.read(row, read), row, values);
      out.write(row, values);
    }
  });
}

}  // namespace

bool cpu_rows_take(const at::Tensor& x) {
  const at::ScalarType type = x.scalar_type();
  return x.is_cpu() && (type == at::kFloat || type == at::kBFloat16) && x.is_contiguous() &&
         x.numel() > 0 && !(at::GradMode::is_enabled() && x.requires_grad());
}

at::Tensor norm_cpu_rows(const at::Tensor& x, const at::Tensor& weight, double epsilon) {
  const std::int64_t n = weight.numel();
  const at::Tensor factors = weight.to(at::kFloat).contiguous();
  const auto* const factor = factors.const_data_ptr<float>();
  at::Tensor out = at::empty_like(x);
  for_each_row(x.numel() / n, Rows(x, n), Rows(out, n),
               [&](const float* in, std::int64_t, float* normed) {
                 kernels::rms_norm(in, factor, n, static_cast<float>(epsilon), normed);
               });
  return out;
}

at::Tensor rope_cpu_rows(const at::Tensor& x, const RopeTable& table, std::int64_t num_rotated) {
  const std::int64_t d = x.size(2), width = x.size(1) * d;
  const auto* const cos = table.cos.const_data_ptr<float>();
  const auto* const sin = table.sin.const_data_ptr<float>();
  at::Tensor out = at::empty_like(x);
  for_each_row(x.size(0), Rows(x, width), Rows(out, width),
               [&](const float* in, std::int64_t row, float* rotated) {
                 std::copy(in, in + width, rotated);
                 kernels::rope(rotated, num_rotated, d, cos + row * (d / 2), sin + row * (d / 2));
               });
  return out;
}

at::Tensor swiglu_cpu_rows(const at::Tensor& gate_up) {
  const std::int64_t width = gate_up.size(-1) / 2;
  std::vector<std::int64_t> shape = gate_up.sizes().vec();
  shape.back() = width;
  at::Tensor out = at::empty(shape, gate_up.options());
  for_each_row(
      gate_up.numel() / (2 * width), Rows(gate_up, 2 * width), Rows(out, width),
      [&](const float* in, std::int64_t, float* product) { kernels::swiglu(in, width, product); });
  return out;
}

}  // namespace gsa::model
