#include <immintrin.h>

#include "kernels/cpu/matrix_kernels.h"

// As matrix_avx512_inline.h, one block of 32 values at a time.
namespace gsa::kernels {
namespace {

inline __m256i load_32(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
inline __m128i load_16(const void* p) { return _mm_loadu_si128(static_cast<const __m128i*>(p)); }

inline float f16_at(const std::uint8_t* p) {
  return _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(p[0] | p[1] << 8)));
}

/// 16 bytes of low nibbles, then the high ones.
inline __m256i split_nibbles(__m128i nibbles) {
  const __m256i both = _mm256_set_m128i(_mm_srli_epi16(nibbles, 4), nibbles);
  return _mm256_and_si256(both, _mm256_set1_epi8(0xF));
}

/// 32 bytes, either unsigned or signed; the block is scale * bytes + min.
struct Block {
  __m256i bytes;
  __m256 scale;
  float min = 0;
};

// One struct per format: kBlocks blocks of 32 values in kBytes; what they share is unpacked once.

struct Q4_0 {
  static constexpr bool kSigned = false, kHasMin = true;
  static constexpr int kBlocks = 1, kBytes = 18;
  const std::uint8_t* p;
  Block block(int) const {
    const float scale = f16_at(p);
    return {split_nibbles(load_16(p + 2)), _mm256_set1_ps(scale), -8 * scale};
  }
};

struct Q4_1 {
  static constexpr bool kSigned = false, kHasMin = true;
  static constexpr int kBlocks = 1, kBytes = 20;
  const std::uint8_t* p;
  Block block(int) const {
    return {split_nibbles(load_16(p + 4)), _mm256_set1_ps(f16_at(p)), f16_at(p + 2)};
  }
};

struct Q8_0 {
  static constexpr bool kSigned = true, kHasMin = false;
  static constexpr int kBlocks = 1, kBytes = 34;
  const std::uint8_t* p;
  Block block(int) const { return {load_32(p + 2), _mm256_set1_ps(f16_at(p))}; }
};

/// Blocks of 256: two f16 factors, 8 scales and 8 minima of 6 bits, nibbles.
struct Q4K {
  static constexpr bool kSigned = false, kHasMin = true;
  static constexpr int kBlocks = 8, kBytes = 144;
  const std::uint8_t* p;
  float scales[8], mins[8];

  explicit Q4K(const std::uint8_t* data) : p(data) {
    std::uint32_t packed[3];
    __builtin_memcpy(packed, p + 4, sizeof packed);
    const auto expand = [](std::uint32_t low, std::uint32_t high) {
      const __m128i codes = _mm_set_epi32(0, 0, static_cast<int>(high), static_cast<int>(low));
      return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(codes));
    };
    const __m256 scale =
        expand(packed[0] & 0x3F3F3F3F, (packed[2] & 0x0F0F0F0F) | (packed[0] >> 2 & 0x30303030));
    const __m256 min = expand(packed[1] & 0x3F3F3F3F,
                              (packed[2] >> 4 & 0x0F0F0F0F) | (packed[1] >> 2 & 0x30303030));
    _mm256_storeu_ps(scales, _mm256_mul_ps(scale, _mm256_set1_ps(f16_at(p))));
    _mm256_storeu_ps(mins, _mm256_mul_ps(min, _mm256_set1_ps(-f16_at(p + 2))));
  }
  Block block(int g) const {
    const __m256i pair = load_32(p + 16 + 32 * (g / 2));  // groups 2 k and 2 k + 1
    const __m256i nibbles = g % 2 == 0 ? pair : _mm256_srli_epi16(pair, 4);
    return {_mm256_and_si256(nibbles, _mm256_set1_epi8(0xF)), _mm256_set1_ps(scales[g]), mins[g]};
  }
};

/// Blocks of 256: lower 4 bits, upper 2 bits, 16 scales of 8 bits, one f16 factor.
struct Q6K {
  static constexpr bool kSigned = true, kHasMin = false;
  static constexpr int kBlocks = 8, kBytes = 210;
  const std::uint8_t* p;
  float scales[16];

  explicit Q6K(const std::uint8_t* data) : p(data) {
    const __m256 d = _mm256_set1_ps(f16_at(p + 208));
    for (int half = 0; half < 2; ++half) {
      const __m128i codes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p + 192 + 8 * half));
      const __m256 values = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(codes));
      _mm256_storeu_ps(scales + 8 * half, _mm256_mul_ps(values, d));
    }
  }
  Block block(int g) const {
    const int half = g / 4, quarter = g % 4;
    const __m256i low = load_32(p + 64 * half + 32 * (quarter % 2));
    const __m256i nibbles = quarter < 2 ? low : _mm256_srli_epi16(low, 4);
    const __m256i high = load_32(p + 128 + 32 * half);
    const __m256i bits = _mm256_srl_epi16(high, _mm_cvtsi32_si128(2 * quarter));
    const __m256i codes =
        _mm256_or_si256(_mm256_and_si256(nibbles, _mm256_set1_epi8(0xF)),
                        _mm256_slli_epi16(_mm256_and_si256(bits, _mm256_set1_epi8(3)), 4));
    return {_mm256_sub_epi8(codes, _mm256_set1_epi8(32)),
            _mm256_set_m128(_mm_set1_ps(scales[2 * g + 1]), _mm_set1_ps(scales[2 * g]))};
  }
};

/// Sums of products of four neighbouring bytes. No pair exceeds 16 bits: |x| <= 127, |w| <= 128.
template <bool Signed>
inline __m256i dot_bytes(__m256i w, __m256i x) {
  const __m256i pairs = Signed ? _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(x, w))
                               : _mm256_maddubs_epi16(w, x);
  return _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
}

inline float reduce(__m256 x) {
  const __m128 quad = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
  const __m128 pair = _mm_add_ps(quad, _mm_movehl_ps(quad, quad));
  return _mm_cvtss_f32(_mm_add_ss(pair, _mm_movehdup_ps(pair)));
}

constexpr std::int64_t kPrefetchBytes = 2048;  // what memory delivers while one access is under way

template <typename Format, int R, int T>
void int8_tile(const std::uint8_t* w, std::int64_t row_bytes, const QuantizedRows& x,
               std::int64_t num_cols, float* y, std::int64_t y_stride) {
  const std::int64_t num_blocks = num_cols / 32;
  __m256 sums[T][R];
  float mins[T][R] = {};
  for (auto& row : sums)
    for (__m256& sum : row) sum = _mm256_setzero_ps();
  for (std::int64_t begin = 0; begin < num_blocks; begin += Format::kBlocks) {
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
      const Format group{w + r * row_bytes};
      for (int i = 0; i < Format::kBytes; i += 64)
        _mm_prefetch(reinterpret_cast<const char*>(group.p + kPrefetchBytes + i), _MM_HINT_T0);
#pragma GCC unroll 8
      for (int g = 0; g < Format::kBlocks; ++g) {
        const Block block = group.block(g);
        const std::int64_t b = begin + g;
#pragma GCC unroll 4
        for (int t = 0; t < T; ++t) {
          const __m256i dot =
              dot_bytes<Format::kSigned>(block.bytes, load_32(x.values + t * num_cols + 32 * b));
          const std::int64_t i = t * num_blocks + b;
          const __m256 scale = _mm256_mul_ps(block.scale, _mm256_set1_ps(x.scales[i]));
          sums[t][r] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dot), scale, sums[t][r]);
          if constexpr (Format::kHasMin) mins[t][r] += block.min * x.sums[i];
        }
      }
    }
    w += Format::kBytes;
  }
  for (int t = 0; t < T; ++t) {
    for (int r = 0; r < R; ++r) y[t * y_stride + r] = reduce(sums[t][r]) + mins[t][r];
  }
}

// Plain formats, 8 values at a time.

struct F32 {
  static constexpr int kBytes = 4;
  static __m256 load(const std::uint8_t* p) {
    return _mm256_loadu_ps(reinterpret_cast<const float*>(p));
  }
};

struct F16 {
  static constexpr int kBytes = 2;
  static __m256 load(const std::uint8_t* p) { return _mm256_cvtph_ps(load_16(p)); }
};

struct BF16 {
  static constexpr int kBytes = 2;
  static __m256 load(const std::uint8_t* p) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(load_16(p)), 16));
  }
};

template <typename Format, int R, int T>
void plain_tile(const std::uint8_t* w, std::int64_t row_bytes, const float* x,
                std::int64_t num_cols, float* y, std::int64_t y_stride) {
  __m256 sums[T][R];
  for (auto& row : sums)
    for (__m256& sum : row) sum = _mm256_setzero_ps();
  const auto add = [&](std::int64_t c, const auto& load_w, const float* values) {
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
      const __m256 weights = load_w(w + r * row_bytes + c * Format::kBytes);
#pragma GCC unroll 4
      for (int t = 0; t < T; ++t)
        sums[t][r] = _mm256_fmadd_ps(weights, _mm256_loadu_ps(values + t * num_cols), sums[t][r]);
    }
  };
  std::int64_t c = 0;
  for (; c + 8 <= num_cols; c += 8) add(c, Format::load, x + c);
  for (int t = 0; t < T; ++t) {
    for (int r = 0; r < R; ++r) y[t * y_stride + r] = reduce(sums[t][r]);
  }
  for (; c < num_cols; ++c) {  // fewer than 8: one by one, with a copy of the weight in a register
    for (int r = 0; r < R; ++r) {
      std::uint8_t padded[8 * Format::kBytes] = {};
      __builtin_memcpy(padded, w + r * row_bytes + c * Format::kBytes, Format::kBytes);
      const float weight = _mm256_cvtss_f32(Format::load(padded));
      for (int t = 0; t < T; ++t) y[t * y_stride + r] += weight * x[t * num_cols + c];
    }
  }
}

/// All tiles of a product, of `Rows` x 4 or `Rows` x 1; tile<R, T> is called with the first row of
/// weights, the first row of activations and the place of their result.
template <int Rows, typename Tile>
void for_each_tile(const ProductArgs& args, const Tile& tile) {
  constexpr int kCols = 4;
  const std::int64_t num_x = args.x->num_rows;
  for (std::int64_t r = 0; r < args.num_rows;) {
    const bool full = args.num_rows - r >= Rows;
    const std::uint8_t* w = args.w + r * args.row_bytes;
    for (std::int64_t t = 0; t < num_x;) {
      float* y = args.y + t * args.y_stride + r;
      const bool wide = num_x - t >= kCols;
      if (full && wide) tile.template operator()<Rows, kCols>(w, t, y);
      if (full && !wide) tile.template operator()<Rows, 1>(w, t, y);
      if (!full && wide) tile.template operator()<1, kCols>(w, t, y);
      if (!full && !wide) tile.template operator()<1, 1>(w, t, y);
      t += wide ? kCols : 1;
    }
    r += full ? Rows : 1;
  }
}

template <typename Format>
void int8_product(const ProductArgs& args) {
  const std::int64_t num_cols = args.x->num_cols;
  for_each_tile<2>(args, [&]<int R, int T>(const std::uint8_t* w, std::int64_t t, float* y) {
    const QuantizedRows& all = args.x->int8;
    const QuantizedRows x{all.values + t * num_cols, all.scales + t * (num_cols / 32),
                          all.sums + t * (num_cols / 32)};
    int8_tile<Format, R, T>(w, args.row_bytes, x, num_cols, y, args.y_stride);
  });
}

template <typename Format>
void plain_product(const ProductArgs& args) {
  const std::int64_t num_cols = args.x->num_cols;
  for_each_tile<2>(args, [&]<int R, int T>(const std::uint8_t* w, std::int64_t t, float* y) {
    plain_tile<Format, R, T>(w, args.row_bytes, args.x->f32 + t * num_cols, num_cols, y,
                             args.y_stride);
  });
}

void quantize_row_avx2(const float* x, std::int64_t n, const QuantizedRows& row) {
  const __m256 sign = _mm256_set1_ps(-0.0F);
  for (std::int64_t b = 0; b < n / 32; ++b, x += 32) {
    __m256 values[4];
    __m256 most = _mm256_setzero_ps();
    for (int i = 0; i < 4; ++i) {
      values[i] = _mm256_loadu_ps(x + 8 * i);
      most = _mm256_max_ps(most, _mm256_andnot_ps(sign, values[i]));
    }
    __m128 max = _mm_max_ps(_mm256_castps256_ps128(most), _mm256_extractf128_ps(most, 1));
    max = _mm_max_ps(max, _mm_movehl_ps(max, max));
    max = _mm_max_ss(max, _mm_movehdup_ps(max));
    const __m256 inverse = _mm256_set1_ps(inverse_scale(_mm_cvtss_f32(max)));
    __m256i codes[4];
    for (int i = 0; i < 4; ++i) codes[i] = _mm256_cvtps_epi32(_mm256_mul_ps(values[i], inverse));
    // Packing works in halves of 128 bits; the permutation restores the order.
    const __m256i packed = _mm256_packs_epi16(_mm256_packs_epi32(codes[0], codes[1]),
                                              _mm256_packs_epi32(codes[2], codes[3]));
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(row.values + b * 32),
                        _mm256_permutevar8x32_epi32(packed, order));
    const __m256i sum = _mm256_add_epi32(_mm256_add_epi32(codes[0], codes[1]),
                                         _mm256_add_epi32(codes[2], codes[3]));
    row.scales[b] = _mm_cvtss_f32(max) / 127;
    row.sums[b] = row.scales[b] * reduce(_mm256_cvtepi32_ps(sum));
  }
}

}  // namespace

const MatrixKernels matrix_avx2{{{ActivationForm::f32, plain_product<F32>},
                                 {ActivationForm::f32, plain_product<F16>},
                                 {ActivationForm::f32, plain_product<BF16>},
                                 {ActivationForm::int8, int8_product<Q8_0>},
                                 {ActivationForm::int8, int8_product<Q4_0>},
                                 {ActivationForm::int8, int8_product<Q4_1>},
                                 {},
                                 {},
                                 {ActivationForm::int8, int8_product<Q4K>},
                                 {},
                                 {ActivationForm::int8, int8_product<Q6K>}},
                                quantize_row_avx2};

}  // namespace gsa::kernels
