#pragma once

#include <cstdint>

#include "kernels/cpu/bf16_inline.h"
#include "kernels/cpu/exp_inline.h"
#include "kernels/cpu/row_kernels.h"

// The row operations as plain loops that compilers vectorise: each instruction set compiles them
// with its own flags, so everything is in an unnamed namespace and nothing is of the standard
// library.
namespace gsa::kernels {
namespace {

constexpr int kLanes = 16;  // independent sums: a reduction in a fixed order that fits any width

void rms_norm_row(const float* x, const float* weight, std::int64_t n, float epsilon, float* out) {
  float sums[kLanes] = {};
  std::int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    for (int j = 0; j < kLanes; ++j) sums[j] += x[i + j] * x[i + j];
  }
  float total = 0;
  for (; i < n; ++i) total += x[i] * x[i];
  for (const float sum : sums) total += sum;
  const float scale = 1 / __builtin_sqrtf(total / static_cast<float>(n) + epsilon);
  for (i = 0; i < n; ++i) out[i] = x[i] * scale * weight[i];
}

void rope_row(float* x, std::int64_t num_heads, std::int64_t head_dim, const float* __restrict cos,
              const float* __restrict sin) {
  const std::int64_t half = head_dim / 2;
  for (std::int64_t h = 0; h < num_heads; ++h) {
    float* __restrict low = x + h * head_dim;
    float* __restrict high = low + half;
    for (std::int64_t i = 0; i < half; ++i) {
      const float a = low[i];
      const float b = high[i];
      low[i] = a * cos[i] - b * sin[i];
      high[i] = b * cos[i] + a * sin[i];
    }
  }
}

void swiglu_row(const float* gate_up, std::int64_t width, float* out) {
  const float* up = gate_up + width;
#pragma GCC ivdep
  for (std::int64_t i = 0; i < width; ++i) {
    const float gate = gate_up[i];
    out[i] = gate / (1 + exp_inline(-gate)) * up[i];
  }
}

void add_row(const float* x, std::int64_t n, float* y) {
#pragma GCC ivdep
  for (std::int64_t i = 0; i < n; ++i) y[i] += x[i];
}

void to_f32_row(const Bf16* x, std::int64_t n, float* out) {
  for (std::int64_t i = 0; i < n; ++i)
    out[i] = __builtin_bit_cast(float, static_cast<std::uint32_t>(x[i]) << 16);
}

void exp_row(const float* x, std::int64_t n, float* out) {
#pragma GCC ivdep
  for (std::int64_t i = 0; i < n; ++i) out[i] = exp_inline(x[i]);
}

}  // namespace
}  // namespace gsa::kernels

/// Defines the table `name`.
#define GSA_ROW_KERNELS(name)                                          \
  namespace gsa::kernels {                                             \
  const RowKernels name{rms_norm_row, rope_row,   swiglu_row, add_row, \
                        to_bf16_row,  to_f32_row, exp_row};            \
  }
