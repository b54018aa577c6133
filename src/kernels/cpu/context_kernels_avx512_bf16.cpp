#include "kernels/cpu/context_pairs_avx512.h"
#include "kernels/cpu/context_products_inline.h"

namespace gsa::kernels {
namespace {

/// With dot products of pairs.
struct PairProducts : PairWords, ByBroadcast<PairProducts> {
  static constexpr int kStep = 8;

  static __m512i load(const Word* words) { return _mm512_loadu_si512(words); }
  static __m512 multiply_add(const Word* word, __m512i x, __m512 sum) {
    return _mm512_dpbf16_ps(sum,
                            reinterpret_cast<__m512bh>(_mm512_set1_epi32(static_cast<int>(*word))),
                            reinterpret_cast<__m512bh>(x));
  }

  /// [keys / 2, d]
  static void pack_values(const Brain* const* rows, int count, std::int64_t d, Word* out) {
    for (int j = 0; j < count; j += 2, out += d) {
      std::int64_t c = 0;
      for (; c + 16 <= d; c += 16)
        _mm512_storeu_si512(out + c, interleave(rows[j] + c, rows[j + 1] + c));
      for (; c < d; ++c) out[c] = rows[j][c].bits | static_cast<Word>(rows[j + 1][c].bits) << 16;
    }
  }
};

void attend(const ContextBlock& block) { ContextTask<PairProducts, Brain>(block).run(); }

}  // namespace

const ContextKernel context_avx512_bf16{scratch_bytes_of<PairProducts>, attend};

}  // namespace gsa::kernels
