#pragma once

#include <cstdint>

#include "kernels/cpu/isa.h"
#include "kernels/cpu/matrix.h"

// Operations on single rows between the matrix products of a layer: f32 in and out, on the
// calling thread, one pass over data that lies in the first-level cache. Inputs may equal outputs.
namespace gsa::kernels {

/// out = x / sqrt(mean(x^2) + epsilon) * weight; x, weight, out [n].
void rms_norm(const float* x, const float* weight, std::int64_t n, float epsilon, float* out,
              Isa isa = best_isa());

/// Rotates pairs (x_i, x_{i + d/2}) of every head by the angle of index i ("rotate half", the row
/// order of Hugging Face).
///   x [num_heads, head_dim] in place; cos, sin [head_dim / 2]
void rope(float* x, std::int64_t num_heads, std::int64_t head_dim, const float* cos,
          const float* sin, Isa isa = best_isa());

/// out = silu(gate) * up, silu(g) = g / (1 + exp(-g)).
///   gate_up [2 width], gate first; out [width], may be gate_up
void swiglu(const float* gate_up, std::int64_t width, float* out, Isa isa = best_isa());

/// y += x; both [n].
void add(const float* x, std::int64_t n, float* y, Isa isa = best_isa());

/// Conversions of [n] values; to bf16 rounds to nearest, ties to even, and keeps NaN.
void to_bf16(const float* x, std::int64_t n, Bf16* out, Isa isa = best_isa());
void to_f32(const Bf16* x, std::int64_t n, float* out, Isa isa = best_isa());

/// out = exp(x); relative error below 1e-7 in [-87, 88], 0 below, infinity above.
void exp(const float* x, std::int64_t n, float* out, Isa isa = best_isa());

}  // namespace gsa::kernels
