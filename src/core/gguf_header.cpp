#include "core/gguf_header.h"

#include <algorithm>
#include <type_traits>

namespace gsa::core {
namespace {

// Far above every real file (the largest vocabularies have 300,000 entries), and low enough that a
// hostile header cannot cost gigabytes of memory.
constexpr std::size_t max_header_bytes = std::size_t{128} << 20;
constexpr std::uint64_t max_array_len = 1 << 24;

/// Kinds of metadata values, by their number in the file.
enum ValueKind : std::uint32_t {
  kind_u8 = 0,
  kind_i8 = 1,
  kind_u16 = 2,
  kind_i16 = 3,
  kind_u32 = 4,
  kind_i32 = 5,
  kind_f32 = 6,
  kind_bool = 7,
  kind_string = gguf_string_kind,
  kind_array = 9,
  kind_u64 = 10,
  kind_i64 = 11,
  kind_f64 = 12,
};

}  // namespace

GgufHeaderReader::GgufHeaderReader(std::span<const std::byte> file_bytes, std::string file)
    : file_(std::move(file)),
      file_bytes_(file_bytes.size()),
      header_(file_bytes.first(std::min(file_bytes.size(), max_header_bytes))) {}

std::uint64_t GgufHeaderReader::read_count(std::uint64_t max, std::string_view field) {
  const auto count = read<std::uint64_t>(field);
  if (count > max) fail(field, "{} are more than {}; {}", count, max, gguf_damaged);
  return count;
}

std::string GgufHeaderReader::read_string(std::string_view field, std::uint64_t max_bytes) {
  const std::uint64_t len = read_count(max_bytes, field);
  const std::byte* bytes = take(len, field);
  return {reinterpret_cast<const char*>(bytes), len};
}

GgufValue GgufHeaderReader::read_value(std::uint32_t kind, std::string_view field) {
  switch (kind) {
    case kind_u8:
      return std::uint64_t{read<std::uint8_t>(field)};
    case kind_i8:
      return std::int64_t{read<std::int8_t>(field)};
    case kind_u16:
      return std::uint64_t{read<std::uint16_t>(field)};
    case kind_i16:
      return std::int64_t{read<std::int16_t>(field)};
    case kind_u32:
      return std::uint64_t{read<std::uint32_t>(field)};
    case kind_i32:
      return std::int64_t{read<std::int32_t>(field)};
    case kind_f32:
      return double{read<float>(field)};
    case kind_bool:
      return read_bool(field);
    case kind_string:
      return read_string(field);
    case kind_array:
      return read_array(field);
    case kind_u64:
      return read<std::uint64_t>(field);
    case kind_i64:
      return read<std::int64_t>(field);
    case kind_f64:
      return read<double>(field);
    default:
      fail(field, "has the unknown kind {}; {}", kind, gguf_damaged);
  }
}

const std::byte* GgufHeaderReader::take(std::uint64_t len, std::string_view field) {
  if (len > header_.size() - offset_) {
    if (header_.size() == file_bytes_ || len > file_bytes_ - offset_) {
      fail(field, "{} bytes at {} reach beyond the file's {} bytes; {}", len, offset_, file_bytes_,
           gguf_damaged);
    }
    fail(field, "lies beyond the {} bytes that a header may take; {}", max_header_bytes,
         gguf_damaged);
  }
  const std::byte* bytes = header_.data() + offset_;
  offset_ += len;
  return bytes;
}

bool GgufHeaderReader::read_bool(std::string_view field) {
  const auto value = read<std::uint8_t>(field);
  if (value > 1) fail(field, "{} is no boolean; {}", value, gguf_damaged);
  return value == 1;
}

template <typename Wide, typename Stored>
std::vector<Wide> GgufHeaderReader::read_elements(std::uint64_t len, std::string_view field) {
  const std::byte* bytes = take(len * sizeof(Stored), field);
  std::vector<Wide> values(len);
  for (std::uint64_t i = 0; i < len; ++i) {
    const auto value = load<Stored>(bytes + i * sizeof(Stored));
    if constexpr (std::is_same_v<Stored, std::uint64_t>) {
      if (value > std::numeric_limits<std::int64_t>::max()) {
        fail(field, "{} does not fit a signed integer; {}", value, gguf_damaged);
      }
    }
    values[i] = static_cast<Wide>(value);
  }
  return values;
}

GgufValue GgufHeaderReader::read_array(std::string_view field) {
  const auto kind = read<std::uint32_t>(field);
  const std::uint64_t len = read_count(max_array_len, field);
  switch (kind) {
    case kind_u8:
      return read_elements<std::int64_t, std::uint8_t>(len, field);
    case kind_i8:
      return read_elements<std::int64_t, std::int8_t>(len, field);
    case kind_u16:
      return read_elements<std::int64_t, std::uint16_t>(len, field);
    case kind_i16:
      return read_elements<std::int64_t, std::int16_t>(len, field);
    case kind_u32:
      return read_elements<std::int64_t, std::uint32_t>(len, field);
    case kind_i32:
      return read_elements<std::int64_t, std::int32_t>(len, field);
    case kind_u64:
      return read_elements<std::int64_t, std::uint64_t>(len, field);
    case kind_i64:
      return read_elements<std::int64_t, std::int64_t>(len, field);
    case kind_f32:
      return read_elements<double, float>(len, field);
    case kind_f64:
      return read_elements<double, double>(len, field);
    case kind_bool:
      return read_bools(len, field);
    case kind_string:
      return read_strings(len, field);
    case kind_array:
      fail(field, "is an array of arrays, which no supported model has");
    default:
      fail(field, "has elements of the unknown kind {}; {}", kind, gguf_damaged);
  }
}

std::vector<bool> GgufHeaderReader::read_bools(std::uint64_t len, std::string_view field) {
  std::vector<bool> values;
  for (std::uint64_t i = 0; i < len; ++i) values.push_back(read_bool(field));
  return values;
}

std::vector<std::string> GgufHeaderReader::read_strings(std::uint64_t len, std::string_view field) {
  std::vector<std::string> values;
  values.reserve(std::min<std::uint64_t>(len, (header_.size() - offset_) / sizeof(len)));
  for (std::uint64_t i = 0; i < len; ++i) values.push_back(read_string(field));
  return values;
}

}  // namespace gsa::core
