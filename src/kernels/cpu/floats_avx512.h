#pragma once

#include <immintrin.h>

#include "kernels/cpu/floats_inline.h"

namespace gsa::kernels {
namespace {

struct Avx512Floats {
  using F = __m512;
  static constexpr int kLanes = 16;

  static F set1(float x) { return _mm512_set1_ps(x); }
  static float first(F x) { return _mm512_cvtss_f32(x); }
  static F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
  static F max(F a, F b) { return _mm512_max_ps(a, b); }
  static float max_of(F x) { return _mm512_reduce_max_ps(x); }
  static float sum_of(F x) { return _mm512_reduce_add_ps(x); }
  static void store(float* p, F x) { _mm512_storeu_ps(p, x); }

  static F load(const float* p) { return _mm512_loadu_ps(p); }
  static F load(const Half* p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  static F load(const Brain* p) {
    return widen(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  static F load_part(const float* p, int n) { return _mm512_maskz_loadu_ps(mask(n), p); }
  static F load_part(const Half* p, int n) {
    return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(mask(n), p));
  }
  static F load_part(const Brain* p, int n) { return widen(_mm256_maskz_loadu_epi16(mask(n), p)); }

  static F add_exponent(F x, F shifted) {
    return _mm512_castsi512_ps(_mm512_add_epi32(
        _mm512_castps_si512(x), _mm512_slli_epi32(_mm512_castps_si512(shifted), 23)));
  }

  static void sum_four(const F x[4], float out[4]) {
    const F a = _mm512_add_ps(_mm512_unpacklo_ps(x[0], x[1]), _mm512_unpackhi_ps(x[0], x[1]));
    const F b = _mm512_add_ps(_mm512_unpacklo_ps(x[2], x[3]), _mm512_unpackhi_ps(x[2], x[3]));
    const __m512d low = _mm512_unpacklo_pd(_mm512_castps_pd(a), _mm512_castps_pd(b));
    const __m512d high = _mm512_unpackhi_pd(_mm512_castps_pd(a), _mm512_castps_pd(b));
    const F all = _mm512_add_ps(_mm512_castpd_ps(low), _mm512_castpd_ps(high));
    const __m256 half = _mm256_add_ps(_mm512_castps512_ps256(all), _mm512_extractf32x8_ps(all, 1));
    _mm_storeu_ps(out, _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1)));
  }

  static F keep_between(F x, F j, F low, F high) {
    const __mmask16 from = _mm512_cmp_ps_mask(low, j, _CMP_LE_OQ);
    const __mmask16 inside = _mm512_mask_cmp_ps_mask(from, j, high, _CMP_LT_OQ);
    return _mm512_mask_mov_ps(set1(kMinusInf), inside, x);
  }

  static void transpose(F (&x)[16]) {
    F pairs[16], fours[16];
    for (int i = 0; i < 16; i += 2) {
      pairs[i] = _mm512_unpacklo_ps(x[i], x[i + 1]);
      pairs[i + 1] = _mm512_unpackhi_ps(x[i], x[i + 1]);
    }
    for (int i = 0; i < 16; i += 4) {  // 128 bits of four rows side by side
      for (int j = 0; j < 2; ++j) {
        fours[i + 2 * j] = _mm512_shuffle_ps(pairs[i + j], pairs[i + j + 2], 0x44);
        fours[i + 2 * j + 1] = _mm512_shuffle_ps(pairs[i + j], pairs[i + j + 2], 0xEE);
      }
    }
    for (int i = 0; i < 4; ++i) {  // of all sixteen
      const F a = _mm512_shuffle_f32x4(fours[i], fours[i + 4], 0x88);
      const F b = _mm512_shuffle_f32x4(fours[i], fours[i + 4], 0xDD);
      const F c = _mm512_shuffle_f32x4(fours[i + 8], fours[i + 12], 0x88);
      const F d = _mm512_shuffle_f32x4(fours[i + 8], fours[i + 12], 0xDD);
      x[i] = _mm512_shuffle_f32x4(a, c, 0x88);
      x[i + 4] = _mm512_shuffle_f32x4(b, d, 0x88);
      x[i + 8] = _mm512_shuffle_f32x4(a, c, 0xDD);
      x[i + 12] = _mm512_shuffle_f32x4(b, d, 0xDD);
    }
  }

 private:
  static __mmask16 mask(int n) { return static_cast<__mmask16>((1U << n) - 1); }
  static F widen(__m256i x) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(x), 16));
  }
};

}  // namespace
}  // namespace gsa::kernels
