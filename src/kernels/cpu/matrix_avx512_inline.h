#pragma once

#include "kernels/cpu/matrix_avx512_formats.h"

// Matrix products with AVX-512, shared by the files with and without VNNI and BF16 and therefore in
// an unnamed namespace. A tile is R rows of weights times T rows of activations: every weight is
// unpacked once per T rows, every activation loaded once per R.
namespace gsa::kernels {
namespace {

constexpr int kMaxRows = 4;  // R at most
constexpr int kMaxCols = 4;  // T at most

#define GSA_INLINE inline __attribute__((always_inline))  // tiles live in registers or not at all

/// The sums over the lanes of four registers.
GSA_INLINE __m128 reduce_4(__m512 x0, __m512 x1, __m512 x2, __m512 x3) {
  const auto pairs = [](__m512 a, __m512 b) {
    return _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
  };
  const __m512d ab = _mm512_castps_pd(pairs(x0, x1));
  const __m512d cd = _mm512_castps_pd(pairs(x2, x3));
  const __m512 all = _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(ab, cd)),
                                   _mm512_castpd_ps(_mm512_unpackhi_pd(ab, cd)));
  const __m256 half = _mm256_add_ps(_mm512_castps512_ps256(all), _mm512_extractf32x8_ps(all, 1));
  return _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
}

template <int T>
GSA_INLINE void clear_tile(__m512 (&sums)[T][kMaxRows]) {
#pragma GCC unroll 4
  for (int t = 0; t < T; ++t) {
#pragma GCC unroll 4
    for (int r = 0; r < kMaxRows; ++r) sums[t][r] = _mm512_setzero_ps();
  }
}

/// Writes the results of a tile: sums[t][r] to y[t * y_stride + r].
template <int R, int T>
GSA_INLINE void store_tile(const __m512 (&sums)[T][kMaxRows], float* y, std::int64_t y_stride) {
#pragma GCC unroll 4
  for (int t = 0; t < T; ++t) {
    const auto mask = static_cast<__mmask8>((1 << R) - 1);
    _mm_mask_storeu_ps(y + t * y_stride, mask,
                       reduce_4(sums[t][0], sums[t][1], sums[t][2], sums[t][3]));
  }
}

/// Distance to what a tile prefetches: whole tiles, and as much as memory delivers while one access
/// is under way.
template <int R>
inline std::int64_t prefetch_distance(std::int64_t row_bytes) {
  constexpr std::int64_t kBytes = 2048;
  return (kBytes + R * row_bytes - 1) / (R * row_bytes) * (R * row_bytes);
}

/// Fetches what a later tile reads where this one is now.
template <int R>
GSA_INLINE void prefetch_rows(const std::uint8_t* p, std::int64_t row_bytes,
                              std::int64_t num_bytes) {
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (std::int64_t i = 0; i < num_bytes; i += 64)
      _mm_prefetch(reinterpret_cast<const char*>(p + r * row_bytes + i), _MM_HINT_T0);
  }
}

/// A group of activations in the order of the format's parts.
template <typename Format>
struct Arranged {
  static constexpr int kPartsPerScale = Format::kParts / Format::kScales;
  __m512i parts[Format::kParts];
  __m512i start[Format::kScales];  // minus what the offset of the bytes adds
  __m512 scales[Format::kScales];
  __m512 sums;  // of the blocks

  GSA_INLINE Arranged(const std::int8_t* values, const float* block_scales, const float* block_sums,
                      int n) {
    __m512i natural[Format::kParts];
#pragma GCC unroll 4
    for (int p = 0; p < Format::kParts; ++p) {
      const int left = 32 * n - 64 * p;
      const __mmask64 mask = left >= 64 ? ~0ULL : left > 0 ? (1ULL << left) - 1 : 0;
      natural[p] = _mm512_maskz_loadu_epi8(mask, values + 64 * p);
    }
    Format::arrange(natural, parts);
    const auto blocks = static_cast<__mmask16>((1U << n) - 1);
    Format::arrange_scales(_mm512_maskz_loadu_ps(blocks, block_scales), scales);
    if constexpr (Format::kHasMins) sums = _mm512_maskz_loadu_ps(blocks, block_sums);
#pragma GCC unroll 4
    for (int s = 0; s < Format::kScales; ++s) {
      __m512i offset = _mm512_setzero_si512();
      if constexpr (Format::kOffset != 0) {
        const __m512i each = _mm512_set1_epi8(static_cast<char>(Format::kOffset));
#pragma GCC unroll 4
        for (int p = s * kPartsPerScale; p < (s + 1) * kPartsPerScale; ++p)
          offset = dot_bytes<Format::kOffset>(offset, each, parts[p]);
      }
      start[s] = _mm512_sub_epi32(_mm512_setzero_si512(), offset);
    }
  }

  /// sum plus the products with a group of weights.
  GSA_INLINE __m512 add(__m512 sum, const Unpacked<Format::kParts, Format::kScales>& w) const {
#pragma GCC unroll 4
    for (int s = 0; s < Format::kScales; ++s) {
      __m512i dot = start[s];
#pragma GCC unroll 4
      for (int p = s * kPartsPerScale; p < (s + 1) * kPartsPerScale; ++p)
        dot = dot_bytes<Format::kMax>(dot, w.parts[p], parts[p]);
      sum = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot), _mm512_mul_ps(w.scales[s], scales[s]), sum);
    }
    if constexpr (Format::kHasMins) sum = _mm512_fmadd_ps(w.mins, sums, sum);
    return sum;
  }
};

/// Adds n blocks of one group to the sums.
template <typename Format, int R, int T>
GSA_INLINE void add_group(const std::uint8_t* w, std::int64_t row_bytes, const QuantizedRows& x,
                          std::int64_t num_cols, int n, __m512 (&sums)[T][kMaxRows]) {
  const std::int64_t num_blocks = num_cols / 32;
  if constexpr (T == 1) {  // the fewest registers
    const Arranged<Format> arranged(x.values, x.scales, x.sums, n);
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r)
      sums[0][r] = arranged.add(sums[0][r], Format::load(w + r * row_bytes, n));
  } else {
    Unpacked<Format::kParts, Format::kScales> rows[R];
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) rows[r] = Format::load(w + r * row_bytes, n);
#pragma GCC unroll 4
    for (int t = 0; t < T; ++t) {
      const Arranged<Format> arranged(x.values + t * num_cols, x.scales + t * num_blocks,
                                      x.sums + t * num_blocks, n);
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) sums[t][r] = arranged.add(sums[t][r], rows[r]);
    }
  }
}

template <typename Format, int R, int T>
void int8_tile(const std::uint8_t* w, std::int64_t row_bytes, QuantizedRows x,
               std::int64_t num_cols, float* y, std::int64_t y_stride) {
  __m512 sums[T][kMaxRows];
  clear_tile(sums);
  const std::int64_t ahead = prefetch_distance<R>(row_bytes);
  std::int64_t num_blocks = num_cols / 32;
  for (; num_blocks >= Format::kBlocks; num_blocks -= Format::kBlocks) {
    prefetch_rows<R>(w + ahead, row_bytes, Format::kGroupBytes);
    add_group<Format, R, T>(w, row_bytes, x, num_cols, Format::kBlocks, sums);
    w += Format::kGroupBytes;
    x.values += Format::kBlocks * 32;
    x.scales += Format::kBlocks;
    x.sums += Format::kBlocks;
  }
  if constexpr (Format::kBlocks == 4) {  // longer groups are the format's own blocks
    if (num_blocks > 0)
      add_group<Format, R, T>(w, row_bytes, x, num_cols, static_cast<int>(num_blocks), sums);
  }
  store_tile<R, T>(sums, y, y_stride);
}

/// All tiles of R rows of weights and T of activations from row t on; returns the next t.
template <int R, int T, typename Tile>
std::int64_t tile_run(const ProductArgs& args, std::int64_t r, std::int64_t t, const Tile& tile) {
  for (; t + T <= args.x->num_rows; t += T) {
    tile.template operator()<R, T>(args.w + r * args.row_bytes, t, args.y + t * args.y_stride + r);
  }
  return t;
}

/// All tiles of a product; tile<R, T> is called with the first row of weights, the first row of
/// activations and the place of their result.
template <int Rows, typename Tile>
void for_each_tile(const ProductArgs& args, const Tile& tile) {
  std::int64_t r = 0;
  for (; r + Rows <= args.num_rows; r += Rows) {
    std::int64_t t = tile_run<Rows, kMaxCols>(args, r, 0, tile);
    t = tile_run<Rows, 2>(args, r, t, tile);
    tile_run<Rows, 1>(args, r, t, tile);
  }
  for (; r < args.num_rows; ++r) {
    const std::int64_t t = tile_run<1, kMaxCols>(args, r, 0, tile);
    tile_run<1, 1>(args, r, t, tile);
  }
}

template <typename Format>
void int8_product(const ProductArgs& args) {
  const std::int64_t num_cols = args.x->num_cols;
  for_each_tile<Format::kRows>(
      args, [&]<int R, int T>(const std::uint8_t* w, std::int64_t t, float* y) {
        const QuantizedRows& all = args.x->int8;
        const QuantizedRows x{all.values + t * num_cols, all.scales + t * (num_cols / 32),
                              all.sums + t * (num_cols / 32)};
        int8_tile<Format, R, T>(w, args.row_bytes, x, num_cols, y, args.y_stride);
      });
}

// Plain formats: kStep values at a time, the first n of them.

struct F32 {
  using X = float;
  using Register = __m512;
  static constexpr int kStep = 16, kBytes = 4;
  static Register load(const void* p, int n) {
    return _mm512_maskz_loadu_ps(static_cast<__mmask16>((1U << n) - 1), p);
  }
  static Register load_x(const X* p, int n) { return load(p, n); }
  static __m512 add(__m512 sum, Register w, Register x) { return _mm512_fmadd_ps(w, x, sum); }
};

struct F16 : F32 {
  static constexpr int kBytes = 2;
  static Register load(const void* p, int n) {
    return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(static_cast<__mmask16>((1U << n) - 1), p));
  }
};

#ifdef __AVX512BF16__
struct Bf16Pairs {
  using X = Bf16;
  using Register = __m512i;
  static constexpr int kStep = 32, kBytes = 2;
  static Register load(const void* p, int n) {
    return _mm512_maskz_loadu_epi16(n >= 32 ? ~0U : (1U << n) - 1, p);
  }
  static Register load_x(const X* p, int n) { return load(p, n); }
  static __m512 add(__m512 sum, Register w, Register x) {
    return _mm512_dpbf16_ps(sum, reinterpret_cast<__m512bh>(w), reinterpret_cast<__m512bh>(x));
  }
};
inline const Bf16* rows_of(const Activations& x, const Bf16*) { return x.bf16; }
#else
struct Bf16Pairs : F32 {
  static constexpr int kBytes = 2;
  static Register load(const void* p, int n) {
    const __m256i words = _mm256_maskz_loadu_epi16(static_cast<__mmask16>((1U << n) - 1), p);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(words), 16));
  }
};
#endif
inline const float* rows_of(const Activations& x, const float*) { return x.f32; }

template <typename Format, int R, int T>
GSA_INLINE void add_step(const std::uint8_t* w, std::int64_t row_bytes, const typename Format::X* x,
                         std::int64_t num_cols, int n, __m512 (&sums)[T][kMaxRows]) {
  typename Format::Register rows[R];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) rows[r] = Format::load(w + r * row_bytes, n);
#pragma GCC unroll 8
  for (int t = 0; t < T; ++t) {
    const auto values = Format::load_x(x + t * num_cols, n);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) sums[t][r] = Format::add(sums[t][r], rows[r], values);
  }
}

template <typename Format, int R, int T>
void plain_tile(const std::uint8_t* w, std::int64_t row_bytes, const typename Format::X* x,
                std::int64_t num_cols, float* y, std::int64_t y_stride) {
  constexpr int kStep = Format::kStep;
  __m512 sums[T][kMaxRows];
  clear_tile(sums);
  const std::int64_t ahead = prefetch_distance<R>(row_bytes);
  std::int64_t c = 0;
  for (; c + kStep <= num_cols; c += kStep) {
    prefetch_rows<R>(w + ahead, row_bytes, kStep * Format::kBytes);
    add_step<Format, R, T>(w, row_bytes, x + c, num_cols, kStep, sums);
    w += kStep * Format::kBytes;
  }
  if (c < num_cols)
    add_step<Format, R, T>(w, row_bytes, x + c, num_cols, static_cast<int>(num_cols - c), sums);
  store_tile<R, T>(sums, y, y_stride);
}

template <typename Format>
void plain_product(const ProductArgs& args) {
  const std::int64_t num_cols = args.x->num_cols;
  const auto* x = rows_of(*args.x, static_cast<const typename Format::X*>(nullptr));
  for_each_tile<kMaxRows>(args, [&]<int R, int T>(const std::uint8_t* w, std::int64_t t, float* y) {
    plain_tile<Format, R, T>(w, args.row_bytes, x + t * num_cols, num_cols, y, args.y_stride);
  });
}

void quantize_row_avx512(const float* x, std::int64_t n, const QuantizedRows& row) {
  for (std::int64_t b = 0; b < n / 32; ++b, x += 32) {
    const __m512 low = _mm512_loadu_ps(x);
    const __m512 high = _mm512_loadu_ps(x + 16);
    const float max = _mm512_reduce_max_ps(_mm512_max_ps(_mm512_abs_ps(low), _mm512_abs_ps(high)));
    const __m512 inverse = _mm512_set1_ps(inverse_scale(max));
    const __m512i a = _mm512_cvtps_epi32(_mm512_mul_ps(low, inverse));
    const __m512i c = _mm512_cvtps_epi32(_mm512_mul_ps(high, inverse));
    auto* values = reinterpret_cast<__m128i*>(row.values + b * 32);
    _mm_storeu_si128(values, _mm512_cvtsepi32_epi8(a));
    _mm_storeu_si128(values + 1, _mm512_cvtsepi32_epi8(c));
    row.scales[b] = max / 127;
    row.sums[b] =
        row.scales[b] * static_cast<float>(_mm512_reduce_add_epi32(_mm512_add_epi32(a, c)));
  }
}

constexpr MatrixKernels kAvx512Kernels{{{ActivationForm::f32, plain_product<F32>},
                                        {ActivationForm::f32, plain_product<F16>},
#ifdef __AVX512BF16__
                                        {ActivationForm::bf16, plain_product<Bf16Pairs>},
#else
                                        {ActivationForm::f32, plain_product<Bf16Pairs>},
#endif
                                        {ActivationForm::int8, int8_product<Q8_0>},
                                        {ActivationForm::int8, int8_product<Q4_0>},
                                        {ActivationForm::int8, int8_product<Q4_1>},
                                        {},
                                        {},
                                        {ActivationForm::int8, int8_product<Q4K>},
                                        {},
                                        {ActivationForm::int8, int8_product<Q6K>}},
                                       quantize_row_avx512};

#undef GSA_INLINE

}  // namespace
}  // namespace gsa::kernels
