#include "core/safetensors.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <utility>

#include "core/error.h"
#include "core/file.h"
#include "core/json.h"
#include "core/utf8.h"

// The format: github.com/huggingface/safetensors, section "Format": u64 length of the header, the
// header as JSON, then the data, which the tensors' offsets cover without a hole.

namespace gsa::core {
namespace {

using nlohmann::json;

constexpr std::uint64_t max_header_bytes = 100'000'000;  // the limit of the reference
constexpr std::size_t len_bytes = sizeof(std::uint64_t);
constexpr std::string_view metadata_key = "__metadata__";
constexpr std::string_view damaged = "the file is truncated or damaged, download it again";

/// Bytes of one element; nothing if the name is unknown or an element is no whole byte.
std::optional<std::int64_t> element_bytes(std::string_view dtype) {
  static const std::map<std::string_view, std::int64_t> sizes{
      {"BOOL", 1}, {"U8", 1},  {"I8", 1},  {"F8_E4M3", 1}, {"F8_E5M2", 1}, {"F8_E8M0", 1},
      {"U16", 2},  {"I16", 2}, {"F16", 2}, {"BF16", 2},    {"U32", 4},     {"I32", 4},
      {"F32", 4},  {"U64", 8}, {"I64", 8}, {"F64", 8},     {"C64", 8},
  };
  const auto entry = sizes.find(dtype);
  return entry == sizes.end() ? std::nullopt : std::optional(entry->second);
}

/// Reads the tensors of one file; every error names the file and the tensor.
class Reader {
 public:
  Reader(std::span<const std::byte> bytes, std::string file)
      : bytes_(bytes), file_(std::move(file)) {}

  /// The header's JSON; `data_` then holds what follows it.
  json read_header() {
    std::uint64_t header_len = 0;
    if (bytes_.size() < len_bytes) {
      input_error("safetensors: {}: {} bytes are too few; {}", file_, bytes_.size(), damaged);
    }
    std::memcpy(&header_len, bytes_.data(), len_bytes);
    const auto rest = bytes_.subspan(len_bytes);
    if (header_len > max_header_bytes) {
      input_error(
          "safetensors: {}: a header of {} bytes is larger than {}; this is no safetensors "
          "file or it is damaged",
          file_, header_len, max_header_bytes);
    }
    if (header_len > rest.size()) {
      input_error("safetensors: {}: header ends at {} beyond the file's {} bytes; {}", file_,
                  len_bytes + header_len, bytes_.size(), damaged);
    }
    data_ = rest.subspan(header_len);
    const std::string_view text(reinterpret_cast<const char*>(rest.data()), header_len);
    json header = parse_json(text, file_ + " (header)", DuplicateKeys::refuse);
    if (!header.is_object()) {
      input_error("safetensors: {}: the header is a JSON {}, not an object; {}", file_,
                  header.type_name(), damaged);
    }
    return header;
  }

  std::map<std::string, std::string> read_metadata(const json& entries) const {
    std::map<std::string, std::string> metadata;
    if (!entries.is_object()) {
      input_error("safetensors: {}: {} is no object; {}", file_, metadata_key, damaged);
    }
    for (const auto& [key, value] : entries.items()) {
      if (!value.is_string()) {
        input_error("safetensors: {}: {} '{}' is no string; {}", file_, metadata_key,
                    printable(key), damaged);
      }
      metadata.emplace(key, value.get<std::string>());
    }
    return metadata;
  }

  SafeTensor read_tensor(const std::string& name, const json& entry) const {
    SafeTensor tensor;
    tensor.name = name;
    if (!entry.is_object() || !entry.contains("dtype") || !entry["dtype"].is_string()) {
      fail(name, "has no dtype");
    }
    tensor.dtype = entry["dtype"].get<std::string>();
    const auto element = element_bytes(tensor.dtype);
    if (!element) {
      input_error("safetensors: {}: tensor '{}': dtype '{}' is not supported", file_,
                  printable(name), printable(tensor.dtype));
    }
    tensor.shape = read_sizes(name, entry, "shape");
    const auto offsets = read_sizes(name, entry, "data_offsets");
    if (offsets.size() != 2 || offsets[0] > offsets[1]) fail(name, "has no valid data_offsets");
    const auto begin = static_cast<std::uint64_t>(offsets[0]);
    const auto end = static_cast<std::uint64_t>(offsets[1]);
    if (end > data_.size()) {
      fail(name, fmt::format("data end at {} beyond the file's {} bytes",
                             bytes_.size() - data_.size() + end, bytes_.size()));
    }
    const std::int64_t num_bytes = product(name, tensor.shape, *element);
    if (end - begin != static_cast<std::uint64_t>(num_bytes)) {
      fail(name, fmt::format("has {} bytes of data, its shape and dtype {} need {}", end - begin,
                             tensor.dtype, num_bytes));
    }
    tensor.data = data_.subspan(begin, end - begin);
    return tensor;
  }

  /// The format allows no hole and no byte that two tensors share.
  void check_cover(std::span<const SafeTensor> tensors) const {
    std::vector<const SafeTensor*> in_file_order;
    for (const SafeTensor& tensor : tensors) in_file_order.push_back(&tensor);
    std::ranges::sort(in_file_order, {}, [](const SafeTensor* tensor) {
      return std::pair(tensor->data.data(), tensor->data.size());
    });
    const std::byte* end = data_.data();
    for (const SafeTensor* tensor : in_file_order) {
      if (tensor->data.data() < end) fail(tensor->name, "its data overlap another tensor's");
      if (tensor->data.data() > end)
        fail(tensor->name, "bytes before its data belong to no tensor");
      end += tensor->data.size();
    }
    if (end != data_.data() + data_.size()) {
      input_error("safetensors: {}: {} bytes after the last tensor; {}", file_,
                  data_.data() + data_.size() - end, damaged);
    }
  }

 private:
  [[noreturn]] void fail(std::string_view name, std::string_view problem) const {
    input_error("safetensors: {}: tensor '{}': {}; {}", file_, printable(name), problem, damaged);
  }

  /// A list of sizes or offsets, all in [0, 2^63).
  std::vector<std::int64_t> read_sizes(const std::string& name, const json& entry,
                                       const char* key) const {
    const auto list = entry.find(key);
    if (list == entry.end() || !list->is_array()) fail(name, fmt::format("has no {}", key));
    std::vector<std::int64_t> sizes;
    for (const json& size : *list) {
      if (!size.is_number_unsigned() ||
          size.get<std::uint64_t>() > std::numeric_limits<std::int64_t>::max()) {
        fail(name, fmt::format("{} holds something that is no size", key));
      }
      sizes.push_back(size.get<std::int64_t>());
    }
    return sizes;
  }

  std::int64_t product(const std::string& name, std::span<const std::int64_t> shape,
                       std::int64_t element) const {
    std::int64_t num_bytes = element;
    for (const std::int64_t size : shape) {
      if (size != 0 && num_bytes > std::numeric_limits<std::int64_t>::max() / size) {
        fail(name, "the product of its shape overflows");
      }
      num_bytes *= size;
    }
    return num_bytes;
  }

  std::span<const std::byte> bytes_;
  std::span<const std::byte> data_;
  std::string file_;
};

std::int64_t total_size(const SafeTensorParts& tensor) {
  std::int64_t num_bytes = 0;
  for (const auto part : tensor.parts) num_bytes += std::ssize(part);
  return num_bytes;
}

/// The shards that an index names, in the order of their names.
std::set<std::string> read_index(const std::filesystem::path& path) {
  const json index = parse_json(read_file(path), path.string());
  const auto weight_map = index.is_object() ? index.find("weight_map") : index.end();
  if (weight_map == index.end() || !weight_map->is_object() || weight_map->empty()) {
    input_error("safetensors: {}: has no weight_map; download the model again", path.string());
  }
  std::set<std::string> shards;
  for (const auto& [tensor, shard] : weight_map->items()) {
    // A name with folders in it could point to any file of the machine.
    if (!shard.is_string() || shard.get<std::string>().empty() ||
        std::filesystem::path(shard.get<std::string>()).has_parent_path()) {
      input_error("safetensors: {}: tensor '{}' has no valid file name; download the model again",
                  path.string(), printable(tensor));
    }
    shards.insert(shard.get<std::string>());
  }
  return shards;
}

}  // namespace

void SafetensorsFile::add_file(const std::filesystem::path& path) {
  auto file = std::make_shared<const MappedFile>(MappedFile::open(path));
  Reader reader(file->bytes(), path.string());
  const json header = reader.read_header();
  std::vector<SafeTensor> tensors;
  for (const auto& [name, entry] : header.items()) {
    if (name == metadata_key) {
      metadata_.merge(reader.read_metadata(entry));
    } else {
      tensors.push_back(reader.read_tensor(name, entry));
    }
  }
  reader.check_cover(tensors);
  for (SafeTensor& tensor : tensors) {
    if (!tensor_idx_.emplace(tensor.name, tensors_.size()).second) {
      input_error("safetensors: {}: tensor '{}' is in another shard too; download the model again",
                  path.string(), printable(tensor.name));
    }
    tensors_.push_back(std::move(tensor));
  }
  files_.push_back(std::move(file));
}

bool SafetensorsFile::is_one(const std::filesystem::path& path) {
  const MappedFile file = MappedFile::open(path);
  const auto bytes = file.bytes();
  if (bytes.size() <= len_bytes) return false;
  std::uint64_t header_len = 0;
  std::memcpy(&header_len, bytes.data(), len_bytes);
  return header_len <= max_header_bytes && bytes[len_bytes] == std::byte{'{'};
}

SafetensorsFile SafetensorsFile::open(const std::filesystem::path& path) {
  SafetensorsFile file;
  file.path_ = path;
  file.add_file(path);
  return file;
}

SafetensorsFile SafetensorsFile::open_directory(const std::filesystem::path& directory) {
  const auto single = directory / "model.safetensors";
  const auto index = directory / "model.safetensors.index.json";
  if (std::filesystem::exists(single)) return open(single);
  if (!std::filesystem::exists(index)) {
    input_error("safetensors: {}: holds neither {} nor {}; name the directory of a model",
                directory.string(), single.filename().string(), index.filename().string());
  }
  SafetensorsFile file;
  file.path_ = directory;
  for (const std::string& shard : read_index(index)) file.add_file(directory / shard);
  return file;
}

const std::filesystem::path& SafetensorsFile::path() const { return path_; }
const std::map<std::string, std::string>& SafetensorsFile::metadata() const { return metadata_; }
const std::vector<SafeTensor>& SafetensorsFile::tensors() const { return tensors_; }

const SafeTensor* SafetensorsFile::find_tensor(std::string_view name) const {
  const auto entry = tensor_idx_.find(name);
  return entry == tensor_idx_.end() ? nullptr : &tensors_[entry->second];
}

const SafeTensor& SafetensorsFile::tensor(std::string_view name) const {
  const SafeTensor* tensor = find_tensor(name);
  if (tensor == nullptr) {
    input_error("safetensors: {}: tensor '{}' is missing; the file is of another model",
                path_.string(), name);
  }
  return *tensor;
}

void write_safetensors(const std::filesystem::path& path, std::span<const SafeTensorParts> tensors,
                       const std::map<std::string, std::string>& metadata) {
  std::vector<const SafeTensorParts*> in_file_order;
  for (const SafeTensorParts& tensor : tensors) {
    const auto element = element_bytes(tensor.dtype);
    std::int64_t num_bytes = element.value_or(0);
    for (const std::int64_t size : tensor.shape) num_bytes *= size;
    if (!element || num_bytes != total_size(tensor)) {
      internal_error(
          "safetensors: {}: tensor '{}' has {} bytes, not those of its shape and dtype {}",
          path.string(), tensor.name, total_size(tensor), tensor.dtype);
    }
    in_file_order.push_back(&tensor);
  }
  std::ranges::stable_sort(in_file_order, std::greater{}, [](const SafeTensorParts* tensor) {
    return *element_bytes(tensor->dtype);
  });

  json header = json::object();
  if (!metadata.empty()) header[metadata_key] = metadata;
  std::int64_t offset = 0;
  for (const SafeTensorParts* tensor : in_file_order) {
    if (header.contains(tensor->name)) {
      internal_error("safetensors: {}: two tensors '{}'", path.string(), tensor->name);
    }
    const std::int64_t end = offset + total_size(*tensor);
    header[tensor->name] = {
        {"dtype", tensor->dtype}, {"shape", tensor->shape}, {"data_offsets", {offset, end}}};
    offset = end;
  }
  std::string text = header.dump();
  text.append((len_bytes - text.size() % len_bytes) % len_bytes, ' ');

  const std::uint64_t header_len = text.size();
  std::vector<std::span<const std::byte>> parts{std::as_bytes(std::span(&header_len, 1)),
                                                std::as_bytes(std::span(text))};
  for (const SafeTensorParts* tensor : in_file_order)
    parts.insert(parts.end(), tensor->parts.begin(), tensor->parts.end());
  write_file_atomic(path, parts);
}

void write_safetensors(const std::filesystem::path& path, std::span<const SafeTensor> tensors,
                       const std::map<std::string, std::string>& metadata) {
  std::vector<SafeTensorParts> in_parts;
  for (const SafeTensor& tensor : tensors)
    in_parts.push_back({tensor.name, tensor.dtype, tensor.shape, {tensor.data}});
  write_safetensors(path, in_parts, metadata);
}

}  // namespace gsa::core
