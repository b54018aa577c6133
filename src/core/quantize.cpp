#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "core/error.h"
#include "core/quant.h"

// Every format follows quantize_row_*_ref of ggml (ggml-quants.c), operation by operation in f32,
// so that the results are equal bit for bit. This file has to be compiled without contraction to
// fused multiply-add (-ffp-contract=off), which rounds once instead of twice.

namespace gsa::core {
namespace {

constexpr std::int64_t kLen = 32;  // values per block of the formats below

/// To nearest, ties to even; infinity from 65520 on.
std::uint16_t f32_to_f16(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  const auto sign = static_cast<std::uint16_t>(bits >> 16 & 0x8000U);
  const std::uint32_t magnitude = bits & 0x7FFFFFFFU;
  std::uint32_t half = 0;
  if (magnitude > 0x7F800000U) {
    half = 0x7E00;  // NaN
  } else if (magnitude >= 0x477FF000U) {
    half = 0x7C00;
  } else if (magnitude < 0x38800000U) {
    // Subnormal: the addition of 0.5, whose last bit is the smallest f16, does the rounding.
    const float shifted = std::bit_cast<float>(magnitude) + 0.5F;
    half = std::bit_cast<std::uint32_t>(shifted) - std::bit_cast<std::uint32_t>(0.5F);
  } else {
    half = (magnitude + 0xFFFU + (magnitude >> 13 & 1U) - (112U << 23)) >> 13;
  }
  return static_cast<std::uint16_t>(sign | half);
}

std::uint16_t f32_to_bf16(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  if (std::isnan(value)) return static_cast<std::uint16_t>(bits >> 16 | 0x40U);
  return static_cast<std::uint16_t>((bits + 0x7FFFU + (bits >> 16 & 1U)) >> 16);
}

/// 1 / scale, or 0 where there is no such number: the scale is 0 in f16 then too.
float inverse_of(float scale) {
  const float inverse = 1 / scale;
  return std::isfinite(inverse) ? inverse : 0;
}

void put(std::byte* at, std::uint16_t half) { std::memcpy(at, &half, sizeof half); }

/// Two codes to a byte: value j and value j + 16.
void put_nibbles(std::byte* at, const std::uint8_t* codes) {
  for (int j = 0; j < 16; ++j) at[j] = static_cast<std::byte>(codes[j] | codes[j + 16] << 4);
}

std::uint8_t code_of(float shifted) {
  return static_cast<std::uint8_t>(std::clamp(static_cast<int>(shifted), 0, 15));
}

void quantize_q8_0(const float* x, std::byte* block) {
  float largest = 0;
  for (int j = 0; j < kLen; ++j) largest = std::max(largest, std::abs(x[j]));
  const float scale = largest / 127;
  const float inverse = inverse_of(scale);
  put(block, f32_to_f16(scale));
  for (int j = 0; j < kLen; ++j)
    block[2 + j] = static_cast<std::byte>(static_cast<std::int8_t>(std::round(x[j] * inverse)));
}

/// The value of the largest magnitude becomes -8 times the scale.
void quantize_q4_0(const float* x, std::byte* block) {
  float extreme = 0;
  for (int j = 0; j < kLen; ++j) {
    if (std::abs(x[j]) > std::abs(extreme)) extreme = x[j];
  }
  const float scale = extreme / -8;
  const float inverse = inverse_of(scale);
  std::uint8_t codes[kLen];
  for (int j = 0; j < kLen; ++j) codes[j] = code_of(x[j] * inverse + 8.5F);
  put(block, f32_to_f16(scale));
  put_nibbles(block + 2, codes);
}

void quantize_q4_1(const float* x, std::byte* block) {
  const auto [min, max] = std::minmax_element(x, x + kLen);
  const float scale = (*max - *min) / 15;
  const float inverse = inverse_of(scale);
  std::uint8_t codes[kLen];
  for (int j = 0; j < kLen; ++j) codes[j] = code_of((x[j] - *min) * inverse + 0.5F);
  put(block, f32_to_f16(scale));
  put(block + 2, f32_to_f16(*min));
  put_nibbles(block + 4, codes);
}

template <typename Block>
void quantize_blocks(DataType type, std::span<const float> values, std::byte* out,
                     const Block& quantize_block) {
  // The minimum of a Q4_1 block is an f16 itself.
  constexpr float kLargest = 65504;
  const std::int64_t bytes = block_bytes(type);
  for (std::int64_t b = 0; b < std::ssize(values) / kLen; ++b) {
    const float* x = values.data() + b * kLen;
    if (!std::all_of(x, x + kLen, [](float v) { return std::abs(v) <= kLargest; })) {
      input_error("quant: values {} to {} are not all finite and below {}: they cannot be {}",
                  b * kLen, (b + 1) * kLen - 1, kLargest, data_type_name(type));
    }
    quantize_block(x, out + b * bytes);
  }
}

}  // namespace

bool can_quantize(DataType type) {
  switch (type) {
    case DataType::f32:
    case DataType::f16:
    case DataType::bf16:
    case DataType::q8_0:
    case DataType::q4_0:
    case DataType::q4_1:
      return true;
    default:
      return false;
  }
}

void quantize(DataType type, std::span<const float> values, std::span<std::byte> out) {
  if (out.size() != static_cast<std::size_t>(data_bytes(type, std::ssize(values)))) {
    internal_error("quant: {} values are not {} bytes of {}", values.size(), out.size(),
                   data_type_name(type));
  }
  switch (type) {
    case DataType::f32:
      std::copy_n(reinterpret_cast<const std::byte*>(values.data()), out.size(), out.data());
      return;
    case DataType::f16:
      for (std::size_t i = 0; i < values.size(); ++i) put(&out[2 * i], f32_to_f16(values[i]));
      return;
    case DataType::bf16:
      for (std::size_t i = 0; i < values.size(); ++i) put(&out[2 * i], f32_to_bf16(values[i]));
      return;
    case DataType::q8_0:
      return quantize_blocks(type, values, out.data(), quantize_q8_0);
    case DataType::q4_0:
      return quantize_blocks(type, values, out.data(), quantize_q4_0);
    case DataType::q4_1:
      return quantize_blocks(type, values, out.data(), quantize_q4_1);
    default:
      input_error("quant: weights cannot be written as {} again: use Q8_0 instead",
                  data_type_name(type));
  }
}

}  // namespace gsa::core
