#include "model/rope.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <numbers>

#include "attention/device_stream.h"
#include "attention/vector_math.h"
#include "kernels/cuda/row_ops.h"
#include "model/cpu_rows.h"

namespace gsa::model {
namespace {

/// Interpolates between the stretched and the plain frequency (Llama 3.1). A wave that fits
/// `high_freq_factor` times into the original window stays, one that fits less than
/// `low_freq_factor` times is stretched.
double llama3_frequency(double frequency, const RopeScaling& scaling) {
  const double turns =
      static_cast<double>(scaling.original_window) * frequency / (2 * std::numbers::pi);
  const double keep = std::clamp(
      (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor), 0.0,
      1.0);
  return (1 - keep) * frequency / scaling.factor + keep * frequency;
}

/// Ramp of YaRN (arXiv 2309.00071, section 3.2): 0 at dimensions that turn fast and stay, 1 at
/// those that turn slowly and are stretched.
class YarnRamp {
 public:
  explicit YarnRamp(const ModelConfig& config) {
    const RopeScaling& scaling = config.rope_scaling;
    // Dimension that turns so many times within the original window.
    const auto dim_of = [&](double num_turns) {
      return static_cast<double>(config.head_dim) *
             std::log(static_cast<double>(scaling.original_window) /
                      (num_turns * 2 * std::numbers::pi)) /
             (2 * std::log(config.rope_theta));
    };
    low_ = dim_of(scaling.beta_fast);
    high_ = dim_of(scaling.beta_slow);
    if (scaling.truncate) {
      low_ = std::floor(low_);
      high_ = std::ceil(high_);
    }
    low_ = std::max(low_, 0.0);
    high_ = std::min(high_, static_cast<double>(config.head_dim - 1));
    if (low_ == high_) high_ += 0.001;
  }

  double operator()(std::int64_t dim) const {
    return std::clamp((static_cast<double>(dim) - low_) / (high_ - low_), 0.0, 1.0);
  }

 private:
  double low_, high_;
};

/// Frequency of a dimension as it was before stretching -> after.
using Stretch = std::function<double(std::int64_t dim, double frequency)>;

Stretch make_stretch(const ModelConfig& config) {
  const RopeScaling& scaling = config.rope_scaling;
  if (!scaling.freq_factors.empty()) {
    return [&](std::int64_t dim, double frequency) {
      return frequency / scaling.freq_factors[static_cast<std::size_t>(dim)];
    };
  }
  switch (scaling.kind) {
    case RopeScaling::Kind::none:
      break;
    case RopeScaling::Kind::linear:
      return [&](std::int64_t, double frequency) { return frequency / scaling.factor; };
    case RopeScaling::Kind::llama3:
      return [&](std::int64_t, double frequency) { return llama3_frequency(frequency, scaling); };
    case RopeScaling::Kind::yarn:
      return [&, ramp = YarnRamp(config)](std::int64_t dim, double frequency) {
        return (1 - ramp(dim)) * frequency + ramp(dim) * frequency / scaling.factor;
      };
  }
  return [](std::int64_t, double frequency) { return frequency; };
}

}  // namespace

at::Tensor rope_inv_freq(const ModelConfig& config) {
  at::Tensor inv_freq = at::empty({config.head_dim / 2}, at::kFloat);
  auto* const out = inv_freq.data_ptr<float>();
  const Stretch stretch = make_stretch(config);
  for (std::int64_t dim = 0; dim < config.head_dim / 2; ++dim) {
    const double exponent = -2.0 * static_cast<double>(dim) / static_cast<double>(config.head_dim);
    out[dim] = static_cast<float>(stretch(dim, std::pow(config.rope_theta, exponent)));
  }
  return inv_freq;
}

RopeTable rope_table(const at::Tensor& positions, const at::Tensor& inv_freq,
                     double attention_factor) {
  attention::prepare_vector_math();
  const at::Tensor angles = positions.to(at::kFloat).view({-1, 1, 1}) * inv_freq;  // [T, 1, d / 2]
  RopeTable table{angles.cos(), angles.sin()};
  if (attention_factor != 1) {
    table.cos = table.cos * attention_factor;
    table.sin = table.sin * attention_factor;
  }
  return table;
}

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

enum class Turn { forth, back };

bool kernel_takes(const at::Tensor& x) {
  return attention::kernels_take(x) && x.size(2) % 16 == 0 && x.stride(2) == 1 &&
         x.stride(1) == x.size(2) && x.stride(0) % 8 == 0 &&
         reinterpret_cast<std::uintptr_t>(x.const_data_ptr()) % 16 == 0;
}

at::Tensor rotate_by_kernel(const at::Tensor& x, const RopeTable& table, std::int64_t num_rotated,
                            Turn turn) {
  at::Tensor out = at::empty(x.sizes(), x.options());
  kernels::sm80_bf16_rope({.x = x.const_data_ptr(),
                           .out = out.mutable_data_ptr(),
                           .cos = table.cos.const_data_ptr<float>(),
                           .sin = table.sin.const_data_ptr<float>(),
                           .num_rows = x.size(0),
                           .row_stride = x.stride(0),
                           .num_heads = static_cast<int>(x.size(1)),
                           .num_rotated = static_cast<int>(num_rotated),
                           .head_dim = static_cast<int>(x.size(2)),
                           .sin_sign = turn == Turn::forth ? 1.F : -1.F},
                          attention::CurrentStream(x.device()));
  return out;
}

at::Tensor rotate(const at::Tensor& x, const RopeTable& table, std::int64_t num_rotated,
                  Turn turn) {
  if (kernel_takes(x)) return rotate_by_kernel(x, table, num_rotated, turn);
  const std::int64_t half = x.size(2) / 2;
  // One conversion: products of bf16 and the f32 table would convert in every one of them.
  const at::Tensor heads = x.narrow(1, 0, num_rotated).to(at::kFloat);
  const at::Tensor x1 = heads.narrow(2, 0, half);     // [T, rotated, d / 2]
  const at::Tensor x2 = heads.narrow(2, half, half);  // [T, rotated, d / 2]
  const at::Tensor sin = turn == Turn::forth ? table.sin : table.sin.neg();
  const at::Tensor rotated =
      at::cat({x1 * table.cos - x2 * sin, x2 * table.cos + x1 * sin}, 2).to(x.scalar_type());
  if (num_rotated == x.size(1)) return rotated;
  return at::cat({rotated, x.narrow(1, num_rotated, x.size(1) - num_rotated)}, 1);
}

struct RopeFunction : torch::autograd::Function<RopeFunction> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x, const at::Tensor& cos,
                            const at::Tensor& sin, std::int64_t num_rotated) {
    ctx->save_for_backward({cos, sin});
    ctx->saved_data["num_rotated"] = num_rotated;
    return rotate(x, {cos, sin}, num_rotated, Turn::forth);
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const variable_list saved = ctx->get_saved_variables();
    const std::int64_t num_rotated = ctx->saved_data["num_rotated"].toInt();
    const at::Tensor grad =
        rotate(grads[0].contiguous(), {saved[0], saved[1]}, num_rotated, Turn::back);
    return {grad, {}, {}, {}};
  }
};

}  // namespace

at::Tensor apply_rope(const at::Tensor& x, const RopeTable& table, std::int64_t num_rotated) {
  if (at::GradMode::is_enabled() && x.requires_grad())
    return RopeFunction::apply(x, table.cos, table.sin, num_rotated);
  if (cpu_rows_take(x)) return rope_cpu_rows(x, table, num_rotated);
  return rotate(x, table, num_rotated, Turn::forth);
}

}  // namespace gsa::model
