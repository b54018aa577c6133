#pragma once

#include <cstdint>

#include "kernels/cpu/matrix.h"

namespace gsa::kernels {

/// What one instruction set implements of row_ops.h; not for other layers.
struct RowKernels {
  void (*rms_norm)(const float* x, const float* weight, std::int64_t n, float epsilon, float* out);
  void (*rope)(float* x, std::int64_t num_heads, std::int64_t head_dim, const float* cos,
               const float* sin);
  void (*swiglu)(const float* gate_up, std::int64_t width, float* out);
  void (*add)(const float* x, std::int64_t n, float* y);
  void (*to_bf16)(const float* x, std::int64_t n, Bf16* out);
  void (*to_f32)(const Bf16* x, std::int64_t n, float* out);
  void (*exp)(const float* x, std::int64_t n, float* out);
};

extern const RowKernels row_portable;
extern const RowKernels row_avx2;
extern const RowKernels row_avx512;

}  // namespace gsa::kernels
