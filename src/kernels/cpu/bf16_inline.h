#pragma once

#include <cstdint>

#include "kernels/cpu/matrix.h"

// Compiled into files with different instruction sets, hence in an unnamed namespace.
namespace gsa::kernels {
namespace {

/// To nearest, ties to even; NaN stays NaN.
inline Bf16 round_to_bf16(float x) {
  const std::uint32_t bits = __builtin_bit_cast(std::uint32_t, x);
  const std::uint32_t rounded = (bits + 0x7FFFU + (bits >> 16 & 1U)) >> 16;
  const std::uint32_t nan = bits >> 16 | 0x40U;  // quiet, whatever its payload
  return static_cast<Bf16>((bits & 0x7FFFFFFFU) > 0x7F800000U ? nan : rounded);
}

inline void to_bf16_row(const float* x, std::int64_t n, Bf16* out) {
  for (std::int64_t i = 0; i < n; ++i) out[i] = round_to_bf16(x[i]);
}

}  // namespace
}  // namespace gsa::kernels
