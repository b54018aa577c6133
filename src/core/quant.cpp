#include "core/quant.h"

#include <array>
#include <bit>
#include <limits>

#include "core/error.h"
#include "core/quant_blocks.h"

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
  const auto num_blocks = std::ssize(out) / block_len(type);
  expand_blocks(type, reinterpret_cast<const std::uint8_t*>(data.data()), num_blocks, out.data());
}

}  // namespace gsa::core
