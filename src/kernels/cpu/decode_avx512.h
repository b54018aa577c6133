#pragma once

#include "kernels/cpu/decode_kernels_inline.h"
#include "kernels/cpu/floats_avx512.h"

namespace gsa::kernels {
namespace {

struct Avx512ByRows : Avx512Floats {
  static constexpr int kDims = 4;
  template <typename T>
  static constexpr bool kIsOwn = false;
};

/// Attention over keys in bf16, 32 values of a row at a time. `P` says how:
///   prepare          q in the order and form of products
///   add_products     the products of four keys
///   prepare_weights  weights [R, kTileKeys] in place, so that word j serves kKeys keys
///   add_rows         adds kKeys weighted rows to two registers per head
///   order            where these two hold the values
template <class P>
struct PairedRows : Avx512ByRows {
  template <typename T>
  static constexpr bool kIsOwn = __is_same(T, Brain);
  static constexpr int kValues = 32;

  static __m512i load_row(const Brain* p) { return _mm512_loadu_si512(p); }
  /// n < 32 values, zeros behind.
  static auto row_part(std::int64_t n) {
    const auto mask = static_cast<__mmask32>((1U << n) - 1);
    return [mask](const Brain* p) { return _mm512_maskz_loadu_epi16(mask, p); };
  }

  static void prepare_q(const float* q, std::int64_t head_dim, float* out) {
    for (std::int64_t c = 0; c < head_dim; c += kValues) {
      const int n = static_cast<int>(head_dim - c);
      const F low = n >= kLanes ? load(q + c) : load_part(q + c, n);
      const F high = n >= kValues ? load(q + c + kLanes)
                                  : load_part(q + c + kLanes, n > kLanes ? n - kLanes : 0);
      P::prepare(low, high, out + c);
    }
  }

  /// As score_rows of every instruction set, with q [R, padded_dim] prepared; out [R, kTileKeys].
  template <int R>
  static void score_rows(const float* q, std::int64_t head_dim, const Brain* const* keys,
                         int num_keys, const Brain* const* ahead, float* out) {
    const std::int64_t padded = padded_dim(head_dim);
    for (int j = 0; j < num_keys; j += 4) {
      const Brain* k[4];
      for (int i = 0; i < 4 && ahead != nullptr; ++i) prefetch_row(ahead[j + i], head_dim);
      for (int i = 0; i < 4; ++i) k[i] = keys[j + i < num_keys ? j + i : num_keys - 1];
      F sums[R][4];
      for (int h = 0; h < R; ++h) {
        for (int i = 0; i < 4; ++i) sums[h][i] = set1(0);
      }
      const auto step = [&](std::int64_t c, auto load_key) {
        __m512i values[4];
        for (int i = 0; i < 4; ++i) values[i] = load_key(k[i] + c);
        P::template add_products<R>(sums, values, q + c, padded);
      };
      std::int64_t c = 0;
      for (; c + kValues <= head_dim; c += kValues) step(c, load_row);
      if (c < head_dim) step(c, row_part(head_dim - c));
      for (int h = 0; h < R; ++h) sum_four(sums[h], out + h * kTileKeys + j);
    }
  }

  /// As add_all_values of every instruction set.
  template <int R>
  static void add_all_values(float* weights, const Brain* const* values, int num_keys,
                             const Brain* const* ahead, std::int64_t head_dim, const float* shrink,
                             float* sums) {
    P::template prepare_weights<R>(weights, num_keys);
    std::int64_t c = 0;
    for (; c + 2 * kValues <= head_dim; c += 2 * kValues, ahead = nullptr)
      add_values<R, 2>(weights, values, num_keys, ahead, head_dim, c, shrink, sums + c, load_row);
    for (; c + kValues <= head_dim; c += kValues, ahead = nullptr)
      add_values<R, 1>(weights, values, num_keys, ahead, head_dim, c, shrink, sums + c, load_row);
    if (c < head_dim) {
      add_values<R, 1>(weights, values, num_keys, ahead, head_dim, c, shrink, sums + c,
                       row_part(head_dim - c));
    }
  }

  static void restore_order(float* sums, std::int64_t padded) {
    for (std::int64_t c = 0; c < padded; c += kValues) {
      const F low = load(sums + c), high = load(sums + c + kLanes);
      store(sums + c, _mm512_permutex2var_ps(low, P::order(0), high));
      store(sums + c + kLanes, _mm512_permutex2var_ps(low, P::order(1), high));
    }
  }

 private:
  /// C times 32 dimensions, from `c` on; sums [R, padded_dim] from there on.
  template <int R, int C, typename Load>
  static void add_values(const float* weights, const Brain* const* values, int num_keys,
                         const Brain* const* ahead, std::int64_t head_dim, std::int64_t c,
                         const float* shrink, float* sums, Load load_part_of) {
    const std::int64_t padded = padded_dim(head_dim);
    F acc[R][2 * C];
    for (int h = 0; h < R; ++h) {
      const F factor = set1(shrink[h]);
      for (int i = 0; i < 2 * C; ++i) acc[h][i] = factor * load(sums + h * padded + i * kLanes);
    }
    for (int j = 0; j < num_keys; j += P::kKeys) {
      for (int i = 0; i < P::kKeys && ahead != nullptr; ++i) prefetch_row(ahead[j + i], head_dim);
      F weight[R];
      for (int h = 0; h < R; ++h) weight[h] = set1(weights[h * kTileKeys + j / P::kKeys]);
      for (int i = 0; i < C; ++i) {
        __m512i rows[P::kKeys];
        for (int key = 0; key < P::kKeys; ++key)
          rows[key] = load_part_of(values[j + key] + c + i * kValues);
        P::template add_rows<R, 2 * C>(acc, 2 * i, rows, weight);
      }
    }
    for (int h = 0; h < R; ++h) {
      for (int i = 0; i < 2 * C; ++i) store(sums + h * padded + i * kLanes, acc[h][i]);
    }
  }
};

/// With plain multiply-adds: the even and the odd values of a row make two registers.
struct EvenOdd {
  using F = __m512;
  static constexpr int kKeys = 1;

  static F even(__m512i x) { return _mm512_castsi512_ps(_mm512_slli_epi32(x, 16)); }
  static F odd(__m512i x) {
    return _mm512_castsi512_ps(
        _mm512_and_si512(x, _mm512_set1_epi32(static_cast<int>(0xFFFF0000))));
  }

  static void prepare(F low, F high, float* out) {
    const __m512i evens =
        _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    const __m512i odds = _mm512_add_epi32(evens, _mm512_set1_epi32(1));
    _mm512_storeu_ps(out, _mm512_permutex2var_ps(low, evens, high));
    _mm512_storeu_ps(out + 16, _mm512_permutex2var_ps(low, odds, high));
  }

  template <int R>
  static void add_products(F (&sums)[R][4], const __m512i (&keys)[4], const float* q,
                           std::int64_t stride) {
    for (int i = 0; i < 4; ++i) {
      const F a = even(keys[i]), b = odd(keys[i]);
      for (int h = 0; h < R; ++h) {
        sums[h][i] = _mm512_fmadd_ps(a, _mm512_loadu_ps(q + h * stride), sums[h][i]);
        sums[h][i] = _mm512_fmadd_ps(b, _mm512_loadu_ps(q + h * stride + 16), sums[h][i]);
      }
    }
  }

  template <int R>
  static void prepare_weights(float*, int) {}

  template <int R, int N>
  static void add_rows(F (&acc)[R][N], int first, const __m512i (&rows)[1], const F (&weight)[R]) {
    const F a = even(rows[0]), b = odd(rows[0]);
    for (int h = 0; h < R; ++h) {
      acc[h][first] = _mm512_fmadd_ps(weight[h], a, acc[h][first]);
      acc[h][first + 1] = _mm512_fmadd_ps(weight[h], b, acc[h][first + 1]);
    }
  }

  /// Places of the first and the second 16 values among evens and odds.
  static __m512i order(int half) {
    const __m512i first = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    return _mm512_add_epi32(first, _mm512_set1_epi32(8 * half));
  }
};

using Avx512 = PairedRows<EvenOdd>;

/// Scores in f32: keys in bf16 by pairs of registers, others as usual.
void score_avx512(const ScoreArgs& args) {
  if (args.type != core::DataType::bf16) return score<Avx512ByRows>(args);
  const std::int64_t d = args.head_dim, padded = padded_dim(d);
  alignas(64) float q[kMaxHeads * kMaxHeadDim];
  alignas(64) float scores[kMaxHeads * kTileKeys];
  for (std::int64_t first = 0; first < args.num_queries; first += kMaxHeads) {
    const std::int64_t rest_heads = args.num_queries - first;
    const int num_heads = rest_heads < kMaxHeads ? static_cast<int>(rest_heads) : kMaxHeads;
    for (int h = 0; h < num_heads; ++h)
      Avx512::prepare_q(args.q + (first + h) * d, d, q + h * padded);
    for_each_tile<Brain>(args, [&](std::int64_t begin, int num_keys, const Brain* const* rows,
                                   const Brain* const* ahead) {
      if (first > 0) ahead = nullptr;  // once for all heads
      switch (num_heads) {
        case 1:
          Avx512::score_rows<1>(q, d, rows, num_keys, ahead, scores);
          break;
        case 2:
          Avx512::score_rows<2>(q, d, rows, num_keys, ahead, scores);
          break;
        case 3:
          Avx512::score_rows<3>(q, d, rows, num_keys, ahead, scores);
          break;
        default:
          Avx512::score_rows<kMaxHeads>(q, d, rows, num_keys, ahead, scores);
          break;
      }
      for (int h = 0; h < num_heads; ++h) {
        float* out = args.out + (first + h) * args.stride + begin;
        for (int j = 0; j < num_keys; ++j) out[j] = scores[h * kTileKeys + j];
      }
    });
  }
}

}  // namespace
}  // namespace gsa::kernels
