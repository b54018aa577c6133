#pragma once

#include "kernels/cpu/context_kernels_inline.h"
#include "kernels/cpu/floats_avx512.h"

namespace gsa::kernels {
namespace {

/// Words are pairs of bf16: what products of rows in bf16 share.
struct PairWords {
  using S = Avx512Floats;
  using Word = std::uint32_t;
  static constexpr int kPer = 2, kTileKeys = 128;

  static __m512 load_words(const Brain* x) { return _mm512_loadu_ps(x); }
  static __m512 load_words_part(const Brain* x, std::int64_t count) {
    return _mm512_maskz_loadu_ps(static_cast<__mmask16>((1U << count) - 1), x);
  }

  /// As they are.
  static void pack_keys(const Brain* const* rows, int count, std::int64_t d, Word* out) {
    for (int j = 0; j < count; ++j) __builtin_memcpy(out + j * (d / 2), rows[j], d * 2);
  }

  /// Rounded halfway up: weights are no less than 0.
  static void store_weights(const __m512* weights, Word* out) {
    const __m512i half = _mm512_set1_epi32(0x8000);
    const __m512i low = _mm512_add_epi32(_mm512_castps_si512(weights[0]), half);
    const __m512i high = _mm512_add_epi32(_mm512_castps_si512(weights[1]), half);
    _mm512_storeu_si512(out, _mm512_mask_blend_epi16(0xAAAAAAAA, _mm512_srli_epi32(low, 16), high));
  }

  /// Values c to c + 15 of two rows side by side.
  static __m512i interleave(const Brain* first, const Brain* second) {
    const __m512i low =
        _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(first)));
    const __m512i high =
        _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(second)));
    return _mm512_or_si512(low, _mm512_slli_epi32(high, 16));
  }
};

}  // namespace
}  // namespace gsa::kernels
