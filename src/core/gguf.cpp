#include "core/gguf.h"

#include <algorithm>
#include <array>
#include <bit>
#include <limits>
#include <optional>
#include <utility>

#include "core/error.h"
#include "core/file.h"
#include "core/gguf_header.h"
#include "core/utf8.h"

// The format: docs/gguf.md of github.com/ggml-org/ggml

namespace gsa::core {
namespace {

// Far above every real file, and low enough that a hostile one cannot cost gigabytes of memory.
constexpr std::uint64_t max_num_tensors = 1 << 18;
constexpr std::uint64_t max_num_keys = 1 << 16;
constexpr std::uint64_t max_name_bytes = (1 << 16) - 1;
constexpr std::uint32_t max_num_dims = 4;
constexpr std::uint64_t max_alignment = 1 << 20;

std::optional<DataType> data_type_of(std::uint32_t ggml_type) {
  for (const auto& [id, type] : gguf_types) {
    if (id == ggml_type) return type;
  }
  return std::nullopt;
}

void check_magic_and_version(GgufHeaderReader& reader) {
  const auto magic = reader.read<std::array<char, 4>>("magic");
  if (std::string_view(magic.data(), magic.size()) != "GGUF") {
    reader.fail("magic", "this is no GGUF file; check the path");
  }
  const auto version = reader.read<std::uint32_t>("version");
  if (version == 2 || version == 3) return;
  if (version != 0 && (version & 0xFFFF) == 0) {
    reader.fail("version", "this is a big-endian file; get the little-endian one");
  }
  reader.fail("version", "{} is not supported; versions 2 and 3 are", version);
}

/// The shape of one tensor in PyTorch's order; the file has the innermost dimension first.
std::vector<std::int64_t> read_shape(GgufHeaderReader& reader, std::string_view field) {
  const auto num_dims = reader.read<std::uint32_t>(field);
  if (num_dims > max_num_dims) {
    reader.fail(field, "has {} dimensions, {} are possible; {}", num_dims, max_num_dims,
                gguf_damaged);
  }
  std::vector<std::int64_t> shape(num_dims);
  for (auto dim = shape.rbegin(); dim != shape.rend(); ++dim) {
    const auto size = reader.read<std::uint64_t>(field);
    if (size == 0 || size > std::numeric_limits<std::int64_t>::max()) {
      reader.fail(field, "has a dimension of {}; {}", size, gguf_damaged);
    }
    *dim = static_cast<std::int64_t>(size);
  }
  return shape;
}

/// Bytes of a tensor; input error if its rows are no whole blocks or the product overflows.
std::uint64_t tensor_bytes(const GgufHeaderReader& reader, const GgufTensor& tensor,
                           std::string_view field) {
  const std::int64_t row_len = tensor.shape.empty() ? 1 : tensor.shape.back();
  if (row_len % block_len(tensor.type) != 0) {
    reader.fail(field, "rows of {} values are no whole number of {} blocks; {}", row_len,
                data_type_name(tensor.type), gguf_damaged);
  }
  std::int64_t num_bytes = block_bytes(tensor.type);
  const auto multiply = [&](std::int64_t factor) {
    if (num_bytes > std::numeric_limits<std::int64_t>::max() / factor) {
      reader.fail(field, "the product of its dimensions overflows; {}", gguf_damaged);
    }
    num_bytes *= factor;
  };
  multiply(row_len / block_len(tensor.type));
  for (std::size_t i = 0; i + 1 < tensor.shape.size(); ++i) multiply(tensor.shape[i]);
  return static_cast<std::uint64_t>(num_bytes);
}

struct PlacedTensor {
  GgufTensor tensor;     // data still empty
  std::uint64_t offset;  // of its data, from the beginning of the data section
  std::uint64_t num_bytes;
};

PlacedTensor read_tensor_info(GgufHeaderReader& reader, std::uint64_t idx) {
  PlacedTensor placed;
  GgufTensor& tensor = placed.tensor;
  tensor.name = reader.read_string(fmt::format("name of tensor {}", idx), max_name_bytes);
  const std::string field = fmt::format("tensor '{}'", printable(tensor.name));
  tensor.shape = read_shape(reader, field);
  const auto ggml_type = reader.read<std::uint32_t>(field);
  const auto type = data_type_of(ggml_type);
  if (!type) {
    reader.fail(field,
                "type id {} is not supported (supported: F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, "
                "Q5_1, Q4_K, Q5_K, Q6_K); get the model in one of these",
                ggml_type);
  }
  tensor.type = *type;
  placed.offset = reader.read<std::uint64_t>(field);
  placed.num_bytes = tensor_bytes(reader, tensor, field);
  return placed;
}

/// Lets every tensor point to its bytes.
void place_tensors(const GgufHeaderReader& reader, std::span<const std::byte> file_bytes,
                   std::uint64_t alignment, std::vector<PlacedTensor>& placed) {
  const std::uint64_t data_begin = (reader.offset() + alignment - 1) / alignment * alignment;
  for (auto& [tensor, offset, num_bytes] : placed) {
    const std::string field = fmt::format("tensor '{}'", printable(tensor.name));
    if (offset % alignment != 0) {
      reader.fail(field, "its offset {} is no multiple of {}; {}", offset, alignment, gguf_damaged);
    }
    if (offset > file_bytes.size() || data_begin + offset > file_bytes.size()) {
      reader.fail(field, "data begin at {} + {} beyond the file's {} bytes; {}", data_begin, offset,
                  file_bytes.size(), gguf_damaged);
    }
    const std::uint64_t begin = data_begin + offset;
    if (num_bytes > file_bytes.size() - begin) {
      reader.fail(field, "data end at {} beyond the file's {} bytes; {}", begin + num_bytes,
                  file_bytes.size(), gguf_damaged);
    }
    tensor.data = file_bytes.subspan(begin, num_bytes);
  }

  std::vector<const GgufTensor*> in_file_order;
  for (const auto& entry : placed) in_file_order.push_back(&entry.tensor);
  std::ranges::sort(in_file_order, {},
                    [](const GgufTensor* tensor) { return tensor->data.data(); });
  for (std::size_t i = 1; i < in_file_order.size(); ++i) {
    const GgufTensor& before = *in_file_order[i - 1];
    if (before.data.data() + before.data.size() > in_file_order[i]->data.data()) {
      reader.fail(fmt::format("tensor '{}'", printable(in_file_order[i]->name)),
                  "its data overlap those of '{}'; {}", printable(before.name), gguf_damaged);
    }
  }
}

std::string_view kind_name(const GgufValue& value) {
  constexpr std::string_view names[] = {"a boolean",
                                        "a signed integer",
                                        "an unsigned integer",
                                        "a floating-point number",
                                        "a string",
                                        "an array of booleans",
                                        "an array of integers",
                                        "an array of floating-point numbers",
                                        "an array of strings"};
  return names[value.index()];
}

[[noreturn]] void kind_error(const GgufFile& file, std::string_view key, const GgufValue& value,
                             std::string_view wanted) {
  input_error("gguf: {}: key '{}' is {}, it has to be {}", file.path().string(), key,
              kind_name(value), wanted);
}

const GgufValue& required(const GgufFile& file, std::string_view key) {
  const auto entry = file.metadata().find(key);
  if (entry == file.metadata().end()) {
    input_error("gguf: {}: key '{}' is missing; the file holds no model that can be read",
                file.path().string(), key);
  }
  return entry->second;
}

/// The value as exactly the alternative `T`.
template <typename T>
const T& required_as(const GgufFile& file, std::string_view key, std::string_view wanted) {
  const GgufValue& value = required(file, key);
  const T* typed = std::get_if<T>(&value);
  if (typed == nullptr) kind_error(file, key, value, wanted);
  return *typed;
}

using Metadata = std::map<std::string, GgufValue, std::less<>>;

/// Reads the values, and where each entry lies in the file.
Metadata read_metadata(GgufHeaderReader& reader, std::span<const std::byte> file_bytes,
                       std::vector<GgufEntry>& entries) {
  const std::uint64_t num_keys = reader.read_count(max_num_keys, "number of metadata keys");
  Metadata metadata;
  for (std::uint64_t i = 0; i < num_keys; ++i) {
    const std::size_t begin = reader.offset();
    std::string key = reader.read_string(fmt::format("metadata key {}", i), max_name_bytes);
    const std::string field = fmt::format("key '{}'", printable(key));
    const auto kind = reader.read<std::uint32_t>(field);
    GgufValue value = reader.read_value(kind, field);
    entries.push_back({key, file_bytes.subspan(begin, reader.offset() - begin)});
    if (!metadata.emplace(std::move(key), std::move(value)).second) {
      reader.fail(field, "appears twice; {}", gguf_damaged);
    }
  }
  return metadata;
}

}  // namespace

GgufFile GgufFile::open(const std::filesystem::path& path) {
  GgufFile file;
  file.path_ = path;
  file.file_ = std::make_shared<const MappedFile>(MappedFile::open(path));
  const std::span<const std::byte> bytes = file.file_->bytes();

  GgufHeaderReader reader(bytes, path.string());
  check_magic_and_version(reader);
  const std::uint64_t num_tensors = reader.read_count(max_num_tensors, "number of tensors");
  file.metadata_ = read_metadata(reader, bytes, file.metadata_entries_);

  if (const std::uint64_t num_parts = file.get_uint_or("split.count", 1); num_parts > 1) {
    reader.fail("split.count", "this is one of {} parts; join them with llama-gguf-split --merge",
                num_parts);
  }
  const std::uint64_t alignment = file.get_uint_or("general.alignment", gguf_default_alignment);
  if (!std::has_single_bit(alignment) || alignment > max_alignment) {
    reader.fail("general.alignment", "{} is no power of two up to {}; {}", alignment, max_alignment,
                gguf_damaged);
  }

  std::vector<PlacedTensor> placed;
  for (std::uint64_t i = 0; i < num_tensors; ++i) {
    placed.push_back(read_tensor_info(reader, i));
    const std::string& name = placed.back().tensor.name;
    if (!file.tensor_idx_.emplace(name, i).second) {
      reader.fail(fmt::format("tensor '{}'", printable(name)), "appears twice; {}", gguf_damaged);
    }
  }
  place_tensors(reader, bytes, alignment, placed);
  for (auto& entry : placed) file.tensors_.push_back(std::move(entry.tensor));
  leave_on_disk(bytes.first(reader.offset()));  // values were copied; entries are read when a model is saved
  return file;
}

const std::filesystem::path& GgufFile::path() const { return path_; }
const Metadata& GgufFile::metadata() const { return metadata_; }
const std::vector<GgufEntry>& GgufFile::metadata_entries() const { return metadata_entries_; }
std::shared_ptr<const void> GgufFile::bytes_owner() const { return file_; }
const std::vector<GgufTensor>& GgufFile::tensors() const { return tensors_; }

const GgufTensor* GgufFile::find_tensor(std::string_view name) const {
  const auto entry = tensor_idx_.find(name);
  return entry == tensor_idx_.end() ? nullptr : &tensors_[entry->second];
}

const GgufTensor& GgufFile::tensor(std::string_view name) const {
  const GgufTensor* tensor = find_tensor(name);
  if (tensor == nullptr) {
    input_error("gguf: {}: tensor '{}' is missing; the file holds no model that can be read",
                path_.string(), name);
  }
  return *tensor;
}

bool GgufFile::has(std::string_view key) const { return metadata_.contains(key); }

std::uint64_t GgufFile::get_uint(std::string_view key) const {
  const GgufValue& value = required(*this, key);
  if (const auto* number = std::get_if<std::uint64_t>(&value)) return *number;
  if (const auto* number = std::get_if<std::int64_t>(&value); number != nullptr && *number >= 0) {
    return static_cast<std::uint64_t>(*number);
  }
  kind_error(*this, key, value, "an integer of at least 0");
}

std::uint64_t GgufFile::get_uint_or(std::string_view key, std::uint64_t fallback) const {
  return has(key) ? get_uint(key) : fallback;
}

double GgufFile::get_float(std::string_view key) const {
  const GgufValue& value = required(*this, key);
  if (const auto* number = std::get_if<double>(&value)) return *number;
  if (const auto* number = std::get_if<std::uint64_t>(&value)) return static_cast<double>(*number);
  if (const auto* number = std::get_if<std::int64_t>(&value)) return static_cast<double>(*number);
  kind_error(*this, key, value, "a number");
}

double GgufFile::get_float_or(std::string_view key, double fallback) const {
  return has(key) ? get_float(key) : fallback;
}

bool GgufFile::get_bool_or(std::string_view key, bool fallback) const {
  return has(key) ? required_as<bool>(*this, key, "a boolean") : fallback;
}

const std::string& GgufFile::get_string(std::string_view key) const {
  return required_as<std::string>(*this, key, "a string");
}

std::string GgufFile::get_string_or(std::string_view key, std::string fallback) const {
  return has(key) ? get_string(key) : std::move(fallback);
}

const std::vector<std::string>& GgufFile::get_strings(std::string_view key) const {
  return required_as<std::vector<std::string>>(*this, key, "an array of strings");
}

const std::vector<std::int64_t>& GgufFile::get_ints(std::string_view key) const {
  return required_as<std::vector<std::int64_t>>(*this, key, "an array of integers");
}

const std::vector<double>& GgufFile::get_floats(std::string_view key) const {
  return required_as<std::vector<double>>(*this, key, "an array of floating-point numbers");
}

}  // namespace gsa::core
