#pragma once

#include <cstdint>

// Compiled into files with different instruction sets, hence in an unnamed namespace; written so
// that a loop over it vectorises.
namespace gsa::kernels {
namespace {

/// exp(x) with a relative error below 1e-7 in [-87, 88]; 0 below that, infinity from 88.73 on; NaN
/// stays. Cody and Waite: x = n ln 2 + r with |r| <= ln 2 / 2, a polynomial for exp(r), and n added
/// to the exponent in two halves, since 2^128 is no f32.
inline float exp_inline(float x) {
  // The order of operands lets NaN through.
  const float clamped = 89.0F < x ? 89.0F : (x < -88.0F ? -88.0F : x);
  constexpr float round = 12582912.0F;  // 1.5 * 2^23: an addition rounds to an integer
  const float shifted = clamped * 1.44269504F + round;
  const float n = shifted - round;
  const float r = (clamped - n * 0.693145752F) - n * 1.42860677e-6F;  // ln 2 in two parts
  float p = 1.98756928e-4F;  // minimax of exp(r) - 1 - r over r^2, Cephes' expf
  p = p * r + 1.39819994e-3F;
  p = p * r + 8.33345205e-3F;
  p = p * r + 4.16657962e-2F;
  p = p * r + 1.66666657e-1F;
  p = p * r + 5.00000000e-1F;
  p = p * (r * r) + r + 1.0F;
  const std::int32_t exponent = static_cast<std::int32_t>(
      __builtin_bit_cast(std::uint32_t, shifted) - __builtin_bit_cast(std::uint32_t, round));
  const std::int32_t half = exponent >> 1;
  const float scale1 = __builtin_bit_cast(float, (half + 127) << 23);
  const float scale2 = __builtin_bit_cast(float, (exponent - half + 127) << 23);
  const float result = p * scale1 * scale2;
  return x < -87.0F ? 0.0F : result;
}

}  // namespace
}  // namespace gsa::kernels
