#pragma once

#include <immintrin.h>

#include "kernels/cpu/matrix_kernels.h"

// Quantised formats in AVX-512 registers, shared by the files with and without VNNI and therefore
// in an unnamed namespace.
namespace gsa::kernels {
namespace {

/// Sum of products of 4 unsigned and 4 signed bytes, added to each lane of `sum`. `Max` is the
/// largest unsigned byte: without VNNI up to 128 a pair of products fits 16 bits.
template <int Max>
inline __m512i dot_bytes(__m512i sum, __m512i u, __m512i s) {
#ifdef __AVX512VNNI__
  return _mm512_dpbusd_epi32(sum, u, s);
#else
  if constexpr (Max <= 128) {
    const __m512i pairs = _mm512_maddubs_epi16(u, s);
    return _mm512_add_epi32(sum, _mm512_madd_epi16(pairs, _mm512_set1_epi16(1)));
  } else {
    const __m512i even = _mm512_madd_epi16(_mm512_and_si512(u, _mm512_set1_epi16(0xFF)),
                                           _mm512_srai_epi16(_mm512_slli_epi16(s, 8), 8));
    const __m512i odd = _mm512_madd_epi16(_mm512_srli_epi16(u, 8), _mm512_srai_epi16(s, 8));
    return _mm512_add_epi32(sum, _mm512_add_epi32(even, odd));
  }
#endif
}

/// A whole number of 16-bit words from p; what lies behind them is neither read nor kept.
inline __m512i load_words(const std::uint8_t* p, int num_words) {
  return _mm512_maskz_loadu_epi16(num_words >= 32 ? ~0U : (1U << num_words) - 1, p);
}

/// 16 bytes each from p, p + stride, ... into the first n of four lanes, the others zero.
inline __m512i load_lanes(const std::uint8_t* p, std::int64_t stride, int n) {
  const auto lane = [&](int i) {
    return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p + i * stride));
  };
  __m512i lanes = _mm512_zextsi128_si512(lane(0));
  if (n > 1) lanes = _mm512_mask_broadcast_i32x4(lanes, 0x00F0, lane(1));
  if (n > 2) lanes = _mm512_mask_broadcast_i32x4(lanes, 0x0F00, lane(2));
  if (n > 3) lanes = _mm512_mask_broadcast_i32x4(lanes, 0xF000, lane(3));
  return lanes;
}

inline __m256i load_32(const std::uint8_t* p) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
}

/// The f16 words of `raw` at positions `words`, as f32.
inline __m512 pick_halves(__m512i raw, __m512i words) {
  return _mm512_cvtph_ps(_mm512_castsi512_si256(_mm512_permutexvar_epi16(words, raw)));
}

/// Positions a, b, c, d of 16-bit words, each 4 times.
inline __m512i each_4_words(int a, int b, int c, int d) {
  return _mm512_castsi256_si512(_mm256_set_epi16(d, d, d, d, c, c, c, c, b, b, b, b, a, a, a, a));
}

/// Positions of f32 values, each 4 or 8 times.
inline __m512i each_4(int a, int b, int c, int d) {
  return _mm512_set_epi32(d, d, d, d, c, c, c, c, b, b, b, b, a, a, a, a);
}
inline __m512i each_8(int a, int b) { return each_4(a, a, b, b); }

/// `Parts` registers of 64 unsigned bytes; lane i of part p counts scales[p] (the only one if there
/// is one for all); mins belong to the sums of the activations' blocks.
template <int Parts, int Scales>
struct Unpacked {
  __m512i parts[Parts];
  __m512 scales[Scales];
  __m512 mins;
};

// One struct per format. A group is kBlocks blocks of 32 values in kGroupBytes; `load` unpacks the
// first n of them, `arrange` brings the activations of a group, in natural order, into the order of
// the parts, and `arrange_scales` their scales. Bytes are `value + kOffset`, at most kMax.

/// Part p: the low (high) nibbles of four blocks.
struct NibbleGroup {
  static constexpr int kRows = 4;  // of a tile
  static constexpr int kBlocks = 4, kParts = 2, kScales = 1, kMax = 15;
  static void arrange(const __m512i* x, __m512i* parts) {
    parts[0] = _mm512_shuffle_i32x4(x[0], x[1], 0x88);
    parts[1] = _mm512_shuffle_i32x4(x[0], x[1], 0xDD);
  }
  static void arrange_scales(__m512 s, __m512* scales) {
    scales[0] = _mm512_permutexvar_ps(each_4(0, 1, 2, 3), s);
  }
  static void split(__m512i nibbles, __m512i* parts) {
    const __m512i low = _mm512_set1_epi8(0xF);
    parts[0] = _mm512_and_si512(nibbles, low);
    parts[1] = _mm512_and_si512(_mm512_srli_epi16(nibbles, 4), low);
  }
};

struct Q4_0 : NibbleGroup {
  static constexpr int kOffset = 8;
  static constexpr bool kHasMins = false;
  static constexpr std::int64_t kGroupBytes = 72;
  static Unpacked<2, 1> load(const std::uint8_t* p, int n) {
    Unpacked<2, 1> w;
    w.scales[0] = pick_halves(load_words(p, 9 * n), each_4_words(0, 9, 18, 27));
    split(load_lanes(p + 2, 18, n), w.parts);
    return w;
  }
};

struct Q4_1 : NibbleGroup {
  static constexpr int kOffset = 0;
  static constexpr bool kHasMins = true;
  static constexpr std::int64_t kGroupBytes = 80;
  static Unpacked<2, 1> load(const std::uint8_t* p, int n) {
    Unpacked<2, 1> w;
    const __m512i raw = load_words(p, 10 * n);
    w.scales[0] = pick_halves(raw, each_4_words(0, 10, 20, 30));
    w.mins = pick_halves(raw, _mm512_castsi256_si512(_mm256_set1_epi64x(0x001F0015000B0001)));
    split(load_lanes(p + 4, 20, n), w.parts);
    return w;
  }
};

/// Part p: blocks 2 p and 2 p + 1.
template <int Blocks>
struct NaturalGroup {
  static constexpr int kRows = Blocks == 4 ? 4 : 2;
  static constexpr int kBlocks = Blocks, kParts = Blocks / 2, kScales = kParts;
  static constexpr bool kHasMins = false;
  static void arrange(const __m512i* x, __m512i* parts) {
    for (int p = 0; p < kParts; ++p) parts[p] = x[p];
  }
  static void arrange_scales(__m512 s, __m512* scales) {
    for (int p = 0; p < kParts; ++p) scales[p] = _mm512_permutexvar_ps(each_8(2 * p, 2 * p + 1), s);
  }
};

struct Q8_0 : NaturalGroup<4> {
  static constexpr int kOffset = 128, kMax = 255;
  static constexpr std::int64_t kGroupBytes = 136;
  static Unpacked<2, 2> load(const std::uint8_t* p, int n) {
    Unpacked<2, 2> w;
    for (int part = 0; part < 2; ++part, p += 68, n -= 2) {
      __m512i bytes = _mm512_setzero_si512();
      __m512i raw = bytes;
      if (n > 0) {
        raw = load_words(p, 17 * n);
        bytes = _mm512_zextsi256_si512(load_32(p + 2));
      }
      if (n > 1) bytes = _mm512_mask_broadcast_i64x4(bytes, 0xF0, load_32(p + 36));
      w.parts[part] = _mm512_xor_si512(bytes, _mm512_set1_epi8(-128));
      w.scales[part] = pick_halves(raw, each_4_words(0, 0, 17, 17));
    }
    return w;
  }
};

/// Blocks of 256: two f16 factors, 8 scales and 8 minima of 6 bits, nibbles. Part 2 h + p: of half
/// h of the block the low (high) nibbles, which are groups 0 and 2 (1 and 3).
struct Q4K {
  static constexpr int kRows = 2;
  static constexpr int kBlocks = 8, kParts = 4, kScales = 4, kMax = 15, kOffset = 0;
  static constexpr bool kHasMins = true;
  static constexpr std::int64_t kGroupBytes = 144;
  static void arrange(const __m512i* x, __m512i* parts) {
    for (int h = 0; h < 4; h += 2) {
      parts[h] = _mm512_shuffle_i64x2(x[h], x[h + 1], 0x44);
      parts[h + 1] = _mm512_shuffle_i64x2(x[h], x[h + 1], 0xEE);
    }
  }
  static void arrange_scales(__m512 s, __m512* scales) {
    for (int p = 0; p < 4; ++p) {
      const int first = 4 * (p / 2) + p % 2;
      scales[p] = _mm512_permutexvar_ps(each_8(first, first + 2), s);
    }
  }
  static Unpacked<4, 4> load(const std::uint8_t* p, int) {
    Unpacked<4, 4> w;
    std::uint32_t packed[3];
    __builtin_memcpy(packed, p + 4, sizeof packed);
    // Bytes: scales 0 to 3, scales 4 to 7, minima 0 to 3, minima 4 to 7.
    const __m128i codes = _mm_set_epi32(
        static_cast<int>((packed[2] >> 4 & 0x0F0F0F0F) | (packed[1] >> 2 & 0x30303030)),
        static_cast<int>(packed[1] & 0x3F3F3F3F),
        static_cast<int>((packed[2] & 0x0F0F0F0F) | (packed[0] >> 2 & 0x30303030)),
        static_cast<int>(packed[0] & 0x3F3F3F3F));
    const __m512 values = _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(codes));
    const __m128 factors = _mm_cvtph_ps(_mm_loadu_si32(p));  // d, d_min
    const __m512 d = _mm512_broadcastss_ps(factors);
    const __m512 d_min = _mm512_broadcastss_ps(_mm_movehdup_ps(factors));
    arrange_scales(_mm512_mul_ps(values, d), w.scales);
    const __m512 mins = _mm512_shuffle_f32x4(values, values, 0xEE);  // lanes 8 to 15 first
    w.mins = _mm512_fnmadd_ps(mins, d_min, _mm512_setzero_ps());
    for (int h = 0; h < 2; ++h)
      NibbleGroup::split(_mm512_loadu_si512(p + 16 + 64 * h), w.parts + 2 * h);
    return w;
  }
};

/// Blocks of 256: lower 4 bits, upper 2 bits, 16 scales of 8 bits, one f16 factor.
struct Q6K : NaturalGroup<8> {
  static constexpr int kOffset = 32, kMax = 63;
  static constexpr std::int64_t kGroupBytes = 210;
  static Unpacked<4, 4> load(const std::uint8_t* p, int) {
    Unpacked<4, 4> w;
    const __m512 d = _mm512_cvtph_ps(_mm256_set1_epi16(static_cast<short>(p[208] | p[209] << 8)));
    const __m128i codes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p + 192));
    const __m512 scales = _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(codes)), d);
    const __m512i low_mask = _mm512_set1_epi8(0xF);
    const __m512i high_mask = _mm512_set1_epi8(0x30);
    for (int h = 0; h < 2; ++h) {
      const __m512i low = _mm512_loadu_si512(p + 64 * h);
      const __m512i high = _mm512_broadcast_i64x4(load_32(p + 128 + 32 * h));
      // Bits 0-1 of `high` belong to values 0 to 31, bits 2-3 to the next 32, and so on.
      const __m512i first = _mm512_sllv_epi64(high, _mm512_set_epi64(2, 2, 2, 2, 4, 4, 4, 4));
      const __m512i second = _mm512_srlv_epi64(high, _mm512_set_epi64(2, 2, 2, 2, 0, 0, 0, 0));
      w.parts[2 * h] =
          _mm512_or_si512(_mm512_and_si512(low, low_mask), _mm512_and_si512(first, high_mask));
      w.parts[2 * h + 1] = _mm512_or_si512(_mm512_and_si512(_mm512_srli_epi16(low, 4), low_mask),
                                           _mm512_and_si512(second, high_mask));
    }
    for (int part = 0; part < 4; ++part) {
      const int s = 4 * part;
      w.scales[part] = _mm512_permutexvar_ps(each_4(s, s + 1, s + 2, s + 3), scales);
    }
    return w;
  }
};

}  // namespace
}  // namespace gsa::kernels
