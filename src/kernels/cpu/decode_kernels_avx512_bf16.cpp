#include "kernels/cpu/decode_avx512.h"

namespace gsa::kernels {
namespace {

/// With dot products of pairs in bf16; q and weights are rounded to it.
struct Dots {
  using F = __m512;
  static constexpr int kKeys = 2;

  static F dot(F sum, __m512i a, __m512i b) {
    return _mm512_dpbf16_ps(sum, reinterpret_cast<__m512bh>(a), reinterpret_cast<__m512bh>(b));
  }

  static void prepare(F low, F high, float* out) {
    _mm512_storeu_si512(out, reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(high, low)));
  }

  template <int R>
  static void add_products(F (&sums)[R][4], const __m512i (&keys)[4], const float* q,
                           std::int64_t stride) {
    for (int h = 0; h < R; ++h) {
      const __m512i query = _mm512_loadu_si512(q + h * stride);
      for (int i = 0; i < 4; ++i) sums[h][i] = dot(sums[h][i], keys[i], query);
    }
  }

  /// Pairs of weights; behind an odd last one stands 0.
  template <int R>
  static void prepare_weights(float* weights, int num_keys) {
    for (int h = 0; h < R; ++h) {
      float* row = weights + h * kTileKeys;
      for (int j = 0; j < num_keys; j += 16) {
        const __m256bh rounded = _mm512_cvtneps_pbh(_mm512_loadu_ps(row + j));
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(row + j / 2),
                            reinterpret_cast<__m256i>(rounded));
      }
    }
  }

  template <int R, int N>
  static void add_rows(F (&acc)[R][N], int first, const __m512i (&rows)[2], const F (&weight)[R]) {
    const __m512i low = _mm512_unpacklo_epi16(rows[0], rows[1]);
    const __m512i high = _mm512_unpackhi_epi16(rows[0], rows[1]);
    for (int h = 0; h < R; ++h) {
      const __m512i pair = _mm512_castps_si512(weight[h]);
      acc[h][first] = dot(acc[h][first], low, pair);
      acc[h][first + 1] = dot(acc[h][first + 1], high, pair);
    }
  }

  /// What `unpacklo` and `unpackhi` take from each 128 bits.
  static __m512i order(int half) {
    const __m512i first = _mm512_setr_epi32(0, 1, 2, 3, 16, 17, 18, 19, 4, 5, 6, 7, 20, 21, 22, 23);
    return _mm512_add_epi32(first, _mm512_set1_epi32(8 * half));
  }
};

using Avx512Bf16 = PairedRows<Dots>;

}  // namespace

const DecodeKernels decode_avx512_bf16{prepare<Avx512Bf16>, attend_piece<Avx512Bf16>, score_avx512,
                                       select_top};

}  // namespace gsa::kernels
