#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

namespace gsa::core {

/// Element types of weight files. Quantised ones come in blocks as GGUF lays them out.
enum class DataType { f32, f16, bf16, q8_0, q4_0, q4_1, q5_0, q5_1, q4_k, q5_k, q6_k };

std::string_view data_type_name(DataType type);

/// Elements per block (1 for plain types) and bytes per block.
std::int64_t block_len(DataType type);
std::int64_t block_bytes(DataType type);

/// Bytes of `num_elements` elements; input error if that is no whole number of blocks or overflows.
std::int64_t data_bytes(DataType type, std::int64_t num_elements);

/// Expands a run of whole blocks to f32. `data` holds exactly `data_bytes(type, out.size())` bytes.
void dequantize(DataType type, std::span<const std::byte> data, std::span<float> out);

/// Whether `quantize` writes this type: plain types, Q8_0, Q4_0 and Q4_1.
bool can_quantize(DataType type);

/// Writes values as whole blocks, rounded as ggml rounds them; `out` holds exactly
/// `data_bytes(type, values.size())` bytes. Input error if the type cannot be written (Q8_0 is the
/// way out) or a block's values are not finite or exceed f16.
void quantize(DataType type, std::span<const float> values, std::span<std::byte> out);

}  // namespace gsa::core
