#include <immintrin.h>

#include "kernels/cpu/decode_kernels_inline.h"

namespace gsa::kernels {
namespace {

/// AVX2 with FMA and F16C: 8 floats, so no row of a multiple of 8 has a part of a register.
struct Avx2 {
  using F = __m256;
  static constexpr int kLanes = 8;
  static constexpr int kDims = 2;
  template <typename T>
  static constexpr bool kIsOwn = false;

  static F set1(float x) { return _mm256_set1_ps(x); }
  static float first(F x) { return _mm256_cvtss_f32(x); }
  static F fma(F a, F b, F c) { return _mm256_fmadd_ps(a, b, c); }
  static F max(F a, F b) { return _mm256_max_ps(a, b); }
  static void store(float* p, F x) { _mm256_storeu_ps(p, x); }
  static float max_of(F x) {
    __m128 half = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    half = _mm_max_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_max_ss(half, _mm_movehdup_ps(half)));
  }
  static float sum_of(F x) {
    __m128 half = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    half = _mm_add_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_add_ss(half, _mm_movehdup_ps(half)));
  }

  static F load(const float* p) { return _mm256_loadu_ps(p); }
  static F load(const Half* p) {
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }
  static F load(const Brain* p) {
    const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
  }
  template <typename T>
  static F load_part(const T* p, int) {
    return load(p);
  }

  static F add_exponent(F x, F shifted) {
    return _mm256_castsi256_ps(_mm256_add_epi32(
        _mm256_castps_si256(x), _mm256_slli_epi32(_mm256_castps_si256(shifted), 23)));
  }

  static void sum_four(const F x[4], float out[4]) {
    const F sums = _mm256_hadd_ps(_mm256_hadd_ps(x[0], x[1]), _mm256_hadd_ps(x[2], x[3]));
    _mm_storeu_ps(out, _mm_add_ps(_mm256_castps256_ps128(sums), _mm256_extractf128_ps(sums, 1)));
  }
};

}  // namespace

const DecodeKernels decode_avx2{prepare<Avx2>, attend_piece<Avx2>, score<Avx2>, select_top};

}  // namespace gsa::kernels
