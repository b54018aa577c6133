#pragma once

#include <cstdint>

#include "core/quant.h"

// What a block of every format expands to, as plain loops that compilers vectorise. Each follows
// dequantize_row_* of ggml (ggml-quants.c): the same operations in the same order, so that the
// results are equal bit for bit, if the including file is compiled without contraction to fused
// multiply-add (-ffp-contract=off), which rounds once instead of twice. Files with different
// instruction sets include this, hence the unnamed namespace and no inline code of the library.

namespace gsa::core {
namespace {

/// Exact for every finite value; without branches, so that loops over it vectorise.
inline float f16_to_f32(std::uint16_t half) {
  const std::uint32_t sign = (half & 0x8000U) << 16;
  const std::uint32_t magnitude = half & 0x7FFFU;
  // Normal: move exponent and mantissa to their places and correct the bias by a power of two; that
  // takes infinity and NaN along. Subnormal: let the addition of 0.5 normalise the mantissa.
  const float normal = __builtin_bit_cast(float, (magnitude << 13) + (0xE0U << 23)) * 0x1p-112F;
  const float subnormal = __builtin_bit_cast(float, magnitude | (126U << 23)) - 0.5F;
  const std::uint32_t bits =
      __builtin_bit_cast(std::uint32_t, magnitude < 0x400 ? subnormal : normal);
  return __builtin_bit_cast(float, sign | bits);
}

template <typename T>
T load(const std::uint8_t* bytes) {
  T value;
  __builtin_memcpy(&value, bytes, sizeof(T));
  return value;
}

inline float load_f16(const std::uint8_t* bytes) { return f16_to_f32(load<std::uint16_t>(bytes)); }

// One function per format: a block to `block_len` values.

inline void expand_q8_0(const std::uint8_t* block, float* out) {
  const float scale = load_f16(block);
  for (int j = 0; j < 32; ++j)
    out[j] = static_cast<float>(static_cast<std::int8_t>(block[2 + j])) * scale;
}

inline void expand_q4_0(const std::uint8_t* block, float* out) {
  const float scale = load_f16(block);
  const std::uint8_t* nibbles = block + 2;  // the low ones come first, then the high ones
  for (int j = 0; j < 16; ++j) out[j] = static_cast<float>((nibbles[j] & 0xF) - 8) * scale;
  for (int j = 0; j < 16; ++j) out[j + 16] = static_cast<float>((nibbles[j] >> 4) - 8) * scale;
}

inline void expand_q4_1(const std::uint8_t* block, float* out) {
  const float scale = load_f16(block);
  const float min = load_f16(block + 2);
  const std::uint8_t* nibbles = block + 4;
  for (int j = 0; j < 16; ++j) out[j] = static_cast<float>(nibbles[j] & 0xF) * scale + min;
  for (int j = 0; j < 16; ++j) out[j + 16] = static_cast<float>(nibbles[j] >> 4) * scale + min;
}

/// 32 values `nibble | fifth << 4` of a Q5 block: the low nibbles come first, then the high ones;
/// bit j of `fifth_bits` belongs to value j.
struct Codes {
  std::int32_t values[32];

  explicit Codes(const std::uint8_t* nibbles, std::uint32_t fifth_bits) {
    for (int j = 0; j < 16; ++j) {
      values[j] = (nibbles[j] & 0xF) | static_cast<int>((fifth_bits >> j & 1) << 4);
      values[j + 16] = (nibbles[j] >> 4) | static_cast<int>((fifth_bits >> (j + 16) & 1) << 4);
    }
  }
};

inline void expand_q5_0(const std::uint8_t* block, float* out) {
  const float scale = load_f16(block);
  const Codes codes(block + 6, load<std::uint32_t>(block + 2));
  for (int j = 0; j < 32; ++j) out[j] = static_cast<float>(codes.values[j] - 16) * scale;
}

inline void expand_q5_1(const std::uint8_t* block, float* out) {
  const float scale = load_f16(block);
  const float min = load_f16(block + 2);
  const Codes codes(block + 8, load<std::uint32_t>(block + 4));
  for (int j = 0; j < 32; ++j) out[j] = static_cast<float>(codes.values[j]) * scale + min;
}

/// Scale and minimum of the 8 groups of a Q4_K or Q5_K block: f16 d and dmin times 6-bit integers
/// in 12 bytes; the upper two bits of groups 4 to 7 sit on top of groups 0 to 3.
struct GroupScales {
  float scale[8];
  float min[8];

  explicit GroupScales(const std::uint8_t* block) {
    const float d = load_f16(block);
    const float d_min = load_f16(block + 2);
    const std::uint8_t* packed = block + 4;
    for (int g = 0; g < 4; ++g) {
      scale[g] = d * static_cast<float>(packed[g] & 63);
      min[g] = d_min * static_cast<float>(packed[g + 4] & 63);
      scale[g + 4] = d * static_cast<float>((packed[g + 8] & 0xF) | ((packed[g] >> 6) << 4));
      min[g + 4] = d_min * static_cast<float>((packed[g + 8] >> 4) | ((packed[g + 4] >> 6) << 4));
    }
  }
};

inline void expand_q4_k(const std::uint8_t* block, float* out) {
  const GroupScales groups(block);
  const std::uint8_t* nibbles = block + 16;
  for (int g = 0; g < 8; g += 2, nibbles += 32, out += 64) {
    for (int j = 0; j < 32; ++j) {
      out[j] = groups.scale[g] * static_cast<float>(nibbles[j] & 0xF) - groups.min[g];
      out[j + 32] = groups.scale[g + 1] * static_cast<float>(nibbles[j] >> 4) - groups.min[g + 1];
    }
  }
}

inline void expand_q5_k(const std::uint8_t* block, float* out) {
  const GroupScales groups(block);
  const std::uint8_t* fifth = block + 16;  // bit g of byte j belongs to value j of group g
  const std::uint8_t* nibbles = block + 48;
  for (int g = 0; g < 8; g += 2, nibbles += 32, out += 64) {
    for (int j = 0; j < 32; ++j) {
      const int low = (nibbles[j] & 0xF) | ((fifth[j] >> g & 1) << 4);
      const int high = (nibbles[j] >> 4) | ((fifth[j] >> (g + 1) & 1) << 4);
      out[j] = groups.scale[g] * static_cast<float>(low) - groups.min[g];
      out[j + 32] = groups.scale[g + 1] * static_cast<float>(high) - groups.min[g + 1];
    }
  }
}

inline void expand_q6_k(const std::uint8_t* block, float* out) {
  const std::uint8_t* low = block;         // lower 4 bits
  const std::uint8_t* high = block + 128;  // upper 2 bits
  const float d = load_f16(block + 208);
  float scale[16];  // of 16 values each
  for (int g = 0; g < 16; ++g)
    scale[g] = d * static_cast<float>(static_cast<std::int8_t>(block[192 + g]));

  // 16 values of each of four groups at a time; the groups lie 32 values apart.
  for (int part = 0; part < 4; ++part) {
    const int half = part / 2;
    const int begin = part % 2 * 16;
    const float* group = &scale[half * 8 + part % 2];
    const std::uint8_t* l = low + half * 64 + begin;
    const std::uint8_t* h = high + half * 32 + begin;
    float* o = out + half * 128 + begin;
    for (int j = 0; j < 16; ++j) {
      const int q0 = (l[j] & 0xF) | ((h[j] & 3) << 4);
      const int q1 = (l[j + 32] & 0xF) | ((h[j] >> 2 & 3) << 4);
      const int q2 = (l[j] >> 4) | ((h[j] >> 4 & 3) << 4);
      const int q3 = (l[j + 32] >> 4) | ((h[j] >> 6) << 4);
      o[j] = group[0] * static_cast<float>(q0 - 32);
      o[j + 32] = group[2] * static_cast<float>(q1 - 32);
      o[j + 64] = group[4] * static_cast<float>(q2 - 32);
      o[j + 96] = group[6] * static_cast<float>(q3 - 32);
    }
  }
}

inline void expand_f32(const std::uint8_t* data, float* out) { *out = load<float>(data); }
inline void expand_f16(const std::uint8_t* data, float* out) { *out = load_f16(data); }
inline void expand_bf16(const std::uint8_t* data, float* out) {
  *out = __builtin_bit_cast(float, std::uint32_t{load<std::uint16_t>(data)} << 16);
}

/// A template over the function, so that it is inlined into the loop.
template <void (*expand)(const std::uint8_t*, float*), int block_len, int block_bytes>
void expand_run(const std::uint8_t* data, std::int64_t num_blocks, float* out) {
  for (std::int64_t b = 0; b < num_blocks; ++b) expand(data + b * block_bytes, out + b * block_len);
}

/// Expands whole blocks of any type.
inline void expand_blocks(DataType type, const std::uint8_t* data, std::int64_t num_blocks,
                          float* out) {
  switch (type) {
    case DataType::f32:
      return expand_run<expand_f32, 1, 4>(data, num_blocks, out);
    case DataType::f16:
      return expand_run<expand_f16, 1, 2>(data, num_blocks, out);
    case DataType::bf16:
      return expand_run<expand_bf16, 1, 2>(data, num_blocks, out);
    case DataType::q8_0:
      return expand_run<expand_q8_0, 32, 34>(data, num_blocks, out);
    case DataType::q4_0:
      return expand_run<expand_q4_0, 32, 18>(data, num_blocks, out);
    case DataType::q4_1:
      return expand_run<expand_q4_1, 32, 20>(data, num_blocks, out);
    case DataType::q5_0:
      return expand_run<expand_q5_0, 32, 22>(data, num_blocks, out);
    case DataType::q5_1:
      return expand_run<expand_q5_1, 32, 24>(data, num_blocks, out);
    case DataType::q4_k:
      return expand_run<expand_q4_k, 256, 144>(data, num_blocks, out);
    case DataType::q5_k:
      return expand_run<expand_q5_k, 256, 176>(data, num_blocks, out);
    case DataType::q6_k:
      return expand_run<expand_q6_k, 256, 210>(data, num_blocks, out);
  }
}

}  // namespace
}  // namespace gsa::core
