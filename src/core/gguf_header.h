#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/error.h"
#include "core/gguf.h"

namespace gsa::core {

/// Reads a GGUF header from front to back (internal to the reader of gguf.h). No memory is taken
/// for a length that the rest of the header could not hold. `field` names what is read in the
/// error.
class GgufHeaderReader {
 public:
  GgufHeaderReader(std::span<const std::byte> file_bytes, std::string file);

  /// Input error that begins with the file and the field.
  template <typename... Args>
  [[noreturn]] void fail(std::string_view field, fmt::format_string<Args...> format,
                         Args&&... args) const {
    input_error("gguf: {}: {}: {}", file_, field, fmt::format(format, std::forward<Args>(args)...));
  }

  std::size_t offset() const { return offset_; }

  /// A number or an array of bytes as it lies in the file.
  template <typename T>
  T read(std::string_view field) {
    return load<T>(take(sizeof(T), field));
  }

  /// A count that the file states; refused above `max`.
  std::uint64_t read_count(std::uint64_t max, std::string_view field);

  std::string read_string(std::string_view field,
                          std::uint64_t max_bytes = std::numeric_limits<std::uint64_t>::max());

  /// The metadata value of the kind whose number the file gives.
  GgufValue read_value(std::uint32_t kind, std::string_view field);

 private:
  template <typename T>
  static T load(const std::byte* bytes) {
    T value;
    std::memcpy(&value, bytes, sizeof(T));
    return value;
  }

  /// The next `len` bytes; input error if the header has not that many.
  const std::byte* take(std::uint64_t len, std::string_view field);

  bool read_bool(std::string_view field);
  GgufValue read_array(std::string_view field);
  template <typename Wide, typename Stored>
  std::vector<Wide> read_elements(std::uint64_t len, std::string_view field);
  std::vector<bool> read_bools(std::uint64_t len, std::string_view field);
  std::vector<std::string> read_strings(std::uint64_t len, std::string_view field);

  std::string file_;
  std::size_t file_bytes_;
  std::span<const std::byte> header_;
  std::size_t offset_ = 0;
};

/// Element types and the numbers that GGUF gives them.
inline constexpr std::pair<std::uint32_t, DataType> gguf_types[] = {
    {0, DataType::f32},   {1, DataType::f16},   {2, DataType::q4_0}, {3, DataType::q4_1},
    {6, DataType::q5_0},  {7, DataType::q5_1},  {8, DataType::q8_0}, {12, DataType::q4_k},
    {13, DataType::q5_k}, {14, DataType::q6_k}, {30, DataType::bf16}};

/// The number of the kind of metadata values that are strings.
inline constexpr std::uint32_t gguf_string_kind = 8;

/// Tensor data begin at multiples of this many bytes unless the file says otherwise.
inline constexpr std::uint64_t gguf_default_alignment = 32;

/// Ends every message about a file that contradicts itself.
constexpr std::string_view gguf_damaged = "the file is truncated or damaged, download it again";

}  // namespace gsa::core
