#pragma once

#include <cstdint>

#include "kernels/cpu/floats_inline.h"

// Products of context_kernels_inline.h by multiply-adds; compiled into files with different flags.
namespace gsa::kernels {
namespace {

/// c[m, lanes] (+)= the sum over k of a[m * a_row + k * a_col] times b[k, lanes], for M rows.
template <class P, int M>
inline void multiply_rows(const typename P::Word* a, std::int64_t a_row, std::int64_t a_col,
                          std::int64_t depth, const typename P::Word* b, float* c, bool adds) {
  using S = typename P::S;
  typename S::F sums[M];
  for (int m = 0; m < M; ++m) sums[m] = adds ? S::load(c + m * S::kLanes) : S::set1(0);
  for (std::int64_t k = 0; k < depth; ++k) {
    const auto words = P::load(b + k * S::kLanes);
    for (int m = 0; m < M; ++m)
      sums[m] = P::multiply_add(a + m * a_row + k * a_col, words, sums[m]);
  }
  for (int m = 0; m < M; ++m) S::store(c + m * S::kLanes, sums[m]);
}

/// Products by multiply-adds of a broadcast word and a register: what `P` of those adds are
///   load          a register of words
///   multiply_add  sum + word * register
template <class P>
struct ByBroadcast {
  static constexpr int kRows = 8;  // enough sums in flight for the latency of a multiply-add

  template <typename Word>
  static void scores(const Word* keys, std::int64_t d, int begin, int end, const Word* rows,
                     float* out) {
    const std::int64_t depth = d / P::kPer;
    for (int j = begin; j < end; j += kRows) {
      multiply_rows<P, kRows>(keys + j * depth, depth, 1, depth, rows, out + j * P::S::kLanes,
                              false);
    }
  }

  template <typename Word>
  static void add_values(const Word* values, std::int64_t d, int begin, int end,
                         const Word* weights, float* sums) {
    const std::int64_t first = begin / P::kPer, depth = (end - begin) / P::kPer;
    for (std::int64_t c = 0; c < d; c += kRows) {
      multiply_rows<P, kRows>(values + first * d + c, 1, d, depth, weights + first * P::S::kLanes,
                              sums + c * P::S::kLanes, true);
    }
  }
};

/// Products in f32, whatever the type of the keys.
template <class Floats>
struct FloatProducts : ByBroadcast<FloatProducts<Floats>> {
  using S = Floats;
  using Word = float;
  static constexpr int kPer = 1, kTileKeys = 64, kStep = 8;

  template <typename T>
  static typename S::F load_words(const T* x) {
    return S::load(x);
  }
  template <typename T>
  static typename S::F load_words_part(const T* x, std::int64_t count) {
    return S::load_part(x, static_cast<int>(count));
  }
  static typename S::F load(const float* words) { return S::load(words); }
  static typename S::F multiply_add(const float* word, typename S::F x, typename S::F sum) {
    return S::fma(S::set1(*word), x, sum);
  }
  static void store_weights(const typename S::F* weights, float* out) { S::store(out, weights[0]); }

  template <typename T>
  static void pack_keys(const T* const* rows, int count, std::int64_t d, float* out) {
    for (int j = 0; j < count; ++j) {
      std::int64_t c = 0;
      for (; c + S::kLanes <= d; c += S::kLanes) S::store(out + j * d + c, S::load(rows[j] + c));
      if (c == d) continue;
      float rest[S::kLanes];
      S::store(rest, S::load_part(rows[j] + c, static_cast<int>(d - c)));
      for (std::int64_t i = 0; c + i < d; ++i) out[j * d + c + i] = rest[i];
    }
  }
  template <typename T>
  static void pack_values(const T* const* rows, int count, std::int64_t d, float* out) {
    pack_keys(rows, count, d, out);
  }
};

}  // namespace
}  // namespace gsa::kernels
