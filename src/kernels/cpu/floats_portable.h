#pragma once

#include "kernels/cpu/floats_inline.h"

namespace gsa::kernels {
namespace {

using Floats = float __attribute__((vector_size(16)));
using Words = std::uint32_t __attribute__((vector_size(16)));

inline float widen(Half x) {
  const std::uint32_t sign = (x.bits & 0x8000U) << 16, magnitude = x.bits & 0x7FFFU;
  if (magnitude >= 0x7C00U)  // infinity and NaN
    return __builtin_bit_cast(float, sign | 0x7F800000U | (magnitude & 0x3FFU) << 13);
  // As if the exponent had the bias of an f32, then scaled: subnormals come out right.
  const float scaled = __builtin_bit_cast(float, magnitude << 13) * 0x1p112F;
  return __builtin_bit_cast(float, sign | __builtin_bit_cast(std::uint32_t, scaled));
}

/// Four floats in whatever the compiler makes of its vectors.
struct PortableFloats {
  using F = Floats;
  static constexpr int kLanes = 4;

  static F set1(float x) { return F{x, x, x, x}; }
  static float first(F x) { return x[0]; }
  static F fma(F a, F b, F c) { return a * b + c; }
  static F max(F a, F b) { return a > b ? a : b; }
  static float max_of(F x) {
    const float low = x[0] > x[1] ? x[0] : x[1], high = x[2] > x[3] ? x[2] : x[3];
    return low > high ? low : high;
  }
  static float sum_of(F x) { return (x[0] + x[1]) + (x[2] + x[3]); }
  static void store(float* p, F x) { __builtin_memcpy(p, &x, sizeof(x)); }

  static F load(const float* p) {
    F x;
    __builtin_memcpy(&x, p, sizeof(x));
    return x;
  }
  static F load(const Half* p) { return F{widen(p[0]), widen(p[1]), widen(p[2]), widen(p[3])}; }
  static F load(const Brain* p) {
    return reinterpret_cast<F>(Words{p[0].bits, p[1].bits, p[2].bits, p[3].bits} << 16);
  }
  template <typename T>
  static F load_part(const T* p, int) {
    return load(p);
  }

  static F add_exponent(F x, F shifted) {
    return reinterpret_cast<F>(reinterpret_cast<Words>(x) +
                               (reinterpret_cast<Words>(shifted) << 23));
  }

  static void sum_four(const F x[4], float out[4]) {
    for (int i = 0; i < 4; ++i) out[i] = sum_of(x[i]);
  }

  static F keep_between(F x, F j, F low, F high) {
    return (low <= j) & (j < high) ? x : set1(kMinusInf);
  }

  static void transpose(F (&x)[4]) {
    for (int i = 0; i < 4; ++i) {
      for (int j = 0; j < i; ++j) {
        const float kept = x[i][j];
        x[i][j] = x[j][i];
        x[j][i] = kept;
      }
    }
  }
};

}  // namespace
}  // namespace gsa::kernels
