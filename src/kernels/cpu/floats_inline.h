#pragma once

#include <cstdint>

// Registers of floats, `S`, one struct per instruction set (floats_*.h), and what is written over
// all of them. Compiled into files with different flags, so everything is in an unnamed namespace
// and nothing is of the standard library.
//   S::F            a register of S::kLanes floats, with the operators of GCC's vectors
//   load, load_part from f32, f16, bf16; load_part reads n < kLanes values, zeros behind
//   max             the larger one; the second operand if one is NaN
//   sum_four        out[i] = sum of the lanes of register i
//   add_exponent    x * 2^n, n the integer in the low bits of a float of 1.5 * 2^23 + n
//   keep_between    x where low <= j < high, else -inf
//   transpose       kLanes registers as a matrix
namespace gsa::kernels {
namespace {

struct Half {
  std::uint16_t bits;
};
struct Brain {  // bf16
  std::uint16_t bits;
};

constexpr float kMinusInf = -__builtin_inff();
constexpr float kLog2E = 1.44269504F;

/// 2^x for x <= 0, relative error below 2e-7; x below -126 counts as -126, NaN stays.
template <class S>
inline typename S::F exp2_of(typename S::F x) {
  using F = typename S::F;
  const F clamped = S::max(S::set1(-126.0F), x);
  const F shifted = clamped + S::set1(12582912.0F);  // 1.5 * 2^23: rounds to an integer
  const F r = clamped - (shifted - S::set1(12582912.0F));
  F p = S::set1(1.3276473e-3F);  // minimax over [-1/2, 1/2]
  p = S::fma(p, r, S::set1(9.6755419e-3F));
  p = S::fma(p, r, S::set1(5.5507135e-2F));
  p = S::fma(p, r, S::set1(2.4022120e-1F));
  p = S::fma(p, r, S::set1(6.9314694e-1F));
  p = S::fma(p, r, S::set1(1.0000001F));
  return S::add_exponent(p, shifted);
}

}  // namespace
}  // namespace gsa::kernels
