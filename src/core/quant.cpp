#include "core/quant.h"

#include <array>
#include <bit>
#include <cstring>
#include <limits>

#include "core/error.h"

// Every format follows dequantize_row_* of ggml (ggml-quants.c): the same operations in the same
// order, so that the results are equal bit for bit. This file has to be compiled without
// contraction to fused multiply-add (-ffp-contract=off), which rounds once instead of twice.

namespace gsa::core {
namespace {

static_assert(std::endian::native == std::endian::little, "weight files are little-endian");

struct TypeTraits {
  std::string_view name;
  std::int64_t block_len;
  std::int64_t block_bytes;
};

// In the order of DataType.
constexpr std::array<TypeTraits, 11> type_traits{{
    {"F32", 1, 4},
    {"F16", 1, 2},
    {"BF16", 1, 2},
    {"Q8_0", 32, 34},
    {"Q4_0", 32, 18},
    {"Q4_1", 32, 20},
    {"Q5_0", 32, 22},
    {"Q5_1", 32, 24},
    {"Q4_K", 256, 144},
    {"Q5_K", 256, 176},
    {"Q6_K", 256, 210},
}};

const TypeTraits& traits(DataType type) { return type_traits[static_cast<std::size_t>(type)]; }

/// Exact for every finite value; without branches, so that loops over it vectorise.
float f16_to_f32(std::uint16_t half) {
  const std::uint32_t sign = (half & 0x8000U) << 16;
  const std::uint32_t magnitude = half & 0x7FFFU;
  // Normal: move exponent and mantissa to their places and correct the bias by a power of two; that
  // takes infinity and NaN along. Subnormal: let the addition of 0.5 normalise the mantissa.
  const float normal = std::bit_cast<float>((magnitude << 13) + (0xE0U << 23)) * 0x1p-112F;
  const float subnormal = std::bit_cast<float>(magnitude | (126U << 23)) - 0.5F;
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(magnitude < 0x400 ? subnormal : normal);
  return std::bit_cast<float>(sign | bits);
}

template <typename T>
T load(const std::uint8_t* bytes) {
  T value;
  std::memcpy(&value, bytes, sizeof(T));
  return value;
}

float load_f16(const std::uint8_t* bytes) { return f16_to_f32(load<std::uint16_t>(bytes)); }

/// 32 values `nibble | fifth << 4` of a Q4 or Q5 block: the low nibbles come first, then the high
/// ones; bit j of `fifth_bits` belongs to value j.
struct Codes {
  std::array<std::int32_t, 32> values;

  explicit Codes(const std::uint8_t* nibbles, std::uint32_t fifth_bits = 0) {
    for (int j = 0; j < 16; ++j) {
      values[j] = (nibbles[j] & 0xF) | static_cast<int>((fifth_bits >> j & 1) << 4);
      values[j + 16] = (nibbles[j] >> 4) | static_cast<int>((fifth_bits >> (j + 16) & 1) << 4);
    }
  }
};

// One function per format: a block to `block_len` values.

void expand_q8_0(const std::uint8_t* block, float* out) {
  const float scale = load_f16(block);
  for (int j = 0; j < 32; ++j)
    out[j] = static_cast<float>(static_cast<std::int8_t>(block[2 + j])) * scale;
}

void expand_q4_0(const std::uint8_t* block, float* out) {
  const float scale = load_f16(block);
  const Codes codes(block + 2);
  for (int j = 0; j < 32; ++j) out[j] = static_cast<float>(codes.values[j] - 8) * scale;
}

void expand_q4_1(const std::uint8_t* block, float* out) {
  const float scale = load_f16(block);
  const float min = load_f16(block + 2);
  const Codes codes(block + 4);
  for (int j = 0; j < 32; ++j) out[j] = static_cast<float>(codes.values[j]) * scale + min;
}

void expand_q5_0(const std::uint8_t* block, float* out) {
  const float scale = load_f16(block);
  const Codes codes(block + 6, load<std::uint32_t>(block + 2));
  for (int j = 0; j < 32; ++j) out[j] = static_cast<float>(codes.values[j] - 16) * scale;
}

void expand_q5_1(const std::uint8_t* block, float* out) {
  const float scale = load_f16(block);
  const float min = load_f16(block + 2);
  const Codes codes(block + 8, load<std::uint32_t>(block + 4));
  for (int j = 0; j < 32; ++j) out[j] = static_cast<float>(codes.values[j]) * scale + min;
}

/// Scale and minimum of the 8 groups of a Q4_K or Q5_K block: f16 d and dmin times 6-bit integers
/// in 12 bytes; the upper two bits of groups 4 to 7 sit on top of groups 0 to 3.
struct GroupScales {
  std::array<float, 8> scale;
  std::array<float, 8> min;

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

void expand_q4_k(const std::uint8_t* block, float* out) {
  const GroupScales groups(block);
  const std::uint8_t* nibbles = block + 16;
  for (int g = 0; g < 8; g += 2, nibbles += 32, out += 64) {
    for (int j = 0; j < 32; ++j) {
      out[j] = groups.scale[g] * static_cast<float>(nibbles[j] & 0xF) - groups.min[g];
      out[j + 32] = groups.scale[g + 1] * static_cast<float>(nibbles[j] >> 4) - groups.min[g + 1];
    }
  }
}

void expand_q5_k(const std::uint8_t* block, float* out) {
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

void expand_q6_k(const std::uint8_t* block, float* out) {
  const std::uint8_t* low = block;         // lower 4 bits
  const std::uint8_t* high = block + 128;  // upper 2 bits
  const float d = load_f16(block + 208);
  std::array<float, 16> scale;  // of 16 values each
  for (int g = 0; g < 16; ++g)
    scale[g] = d * static_cast<float>(static_cast<std::int8_t>(block[192 + g]));

  for (int half = 0; half < 2; ++half, low += 64, high += 32, out += 128) {
    for (int j = 0; j < 32; ++j) {
      const float* group = &scale[half * 8 + j / 16];
      const int q0 = (low[j] & 0xF) | ((high[j] & 3) << 4);
      const int q1 = (low[j + 32] & 0xF) | ((high[j] >> 2 & 3) << 4);
      const int q2 = (low[j] >> 4) | ((high[j] >> 4 & 3) << 4);
      const int q3 = (low[j + 32] >> 4) | ((high[j] >> 6) << 4);
      out[j] = group[0] * static_cast<float>(q0 - 32);
      out[j + 32] = group[2] * static_cast<float>(q1 - 32);
      out[j + 64] = group[4] * static_cast<float>(q2 - 32);
      out[j + 96] = group[6] * static_cast<float>(q3 - 32);
    }
  }
}

/// A template over the function, so that it is inlined into the loop.
template <void (*expand)(const std::uint8_t*, float*)>
void expand_blocks(const TypeTraits& type, const std::uint8_t* data, std::span<float> out) {
  const auto num_blocks = static_cast<std::int64_t>(out.size()) / type.block_len;
  for (std::int64_t b = 0; b < num_blocks; ++b) {
    expand(data + b * type.block_bytes, out.data() + b * type.block_len);
  }
}

}  // namespace

std::string_view data_type_name(DataType type) { return traits(type).name; }
std::int64_t block_len(DataType type) { return traits(type).block_len; }
std::int64_t block_bytes(DataType type) { return traits(type).block_bytes; }

std::int64_t data_bytes(DataType type, std::int64_t num_elements) {
  const auto& [name, len, bytes] = traits(type);
  if (num_elements < 0 || num_elements % len != 0) {
    input_error("quant: {} elements are no whole number of {} blocks of {}", num_elements, name,
                len);
  }
  const std::int64_t num_blocks = num_elements / len;
  if (num_blocks > std::numeric_limits<std::int64_t>::max() / bytes) {
    input_error("quant: {} elements of {} overflow every memory", num_elements, name);
  }
  return num_blocks * bytes;
}

void dequantize(DataType type, std::span<const std::byte> data, std::span<float> out) {
  if (data.size() != static_cast<std::size_t>(data_bytes(type, std::ssize(out)))) {
    internal_error("quant: {} bytes of {} are not {} values", data.size(), data_type_name(type),
                   out.size());
  }
  if (out.empty()) return;
  const auto* bytes = reinterpret_cast<const std::uint8_t*>(data.data());
  switch (type) {
    case DataType::f32:
      std::memcpy(out.data(), bytes, data.size());
      return;
    case DataType::f16:
      for (std::size_t i = 0; i < out.size(); ++i) out[i] = load_f16(bytes + 2 * i);
      return;
    case DataType::bf16:
      for (std::size_t i = 0; i < out.size(); ++i) {
        out[i] = std::bit_cast<float>(std::uint32_t{load<std::uint16_t>(bytes + 2 * i)} << 16);
      }
      return;
    case DataType::q8_0:
      return expand_blocks<expand_q8_0>(traits(type), bytes, out);
    case DataType::q4_0:
      return expand_blocks<expand_q4_0>(traits(type), bytes, out);
    case DataType::q4_1:
      return expand_blocks<expand_q4_1>(traits(type), bytes, out);
    case DataType::q5_0:
      return expand_blocks<expand_q5_0>(traits(type), bytes, out);
    case DataType::q5_1:
      return expand_blocks<expand_q5_1>(traits(type), bytes, out);
    case DataType::q4_k:
      return expand_blocks<expand_q4_k>(traits(type), bytes, out);
    case DataType::q5_k:
      return expand_blocks<expand_q5_k>(traits(type), bytes, out);
    case DataType::q6_k:
      return expand_blocks<expand_q6_k>(traits(type), bytes, out);
  }
}

}  // namespace gsa::core
