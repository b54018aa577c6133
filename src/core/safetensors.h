#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace gsa::core {

class MappedFile;

/// One tensor of a safetensors file. Its data may begin at any address. `dtype` is the format's own
/// name: "F32", "BF16", "F16", "I64", "U8", ...
struct SafeTensor {
  std::string name;
  std::string dtype;
  std::vector<std::int64_t> shape;
  std::span<const std::byte> data;
};

/// One safetensors file (memory-mapped), or the shards that a `model.safetensors.index.json` names.
class SafetensorsFile {
 public:
  /// Whether a file begins as the format asks, with the length of a header and its brace. Errors as
  /// those of opening any file.
  static bool is_one(const std::filesystem::path& path);
  /// Opens one .safetensors file.
  static SafetensorsFile open(const std::filesystem::path& path);
  /// Opens `model.safetensors` or the shards of `model.safetensors.index.json` in a model
  /// directory.
  static SafetensorsFile open_directory(const std::filesystem::path& directory);

  const std::filesystem::path& path() const;
  const std::map<std::string, std::string>& metadata() const;  ///< the `__metadata__` strings
  const std::vector<SafeTensor>& tensors() const;
  const SafeTensor* find_tensor(std::string_view name) const;  ///< nullptr if absent
  const SafeTensor& tensor(std::string_view name) const;       ///< input error if absent

 private:
  void add_file(const std::filesystem::path& path);

  std::filesystem::path path_;
  std::vector<std::shared_ptr<const MappedFile>> files_;
  std::map<std::string, std::string> metadata_;
  std::vector<SafeTensor> tensors_;
  std::map<std::string, std::size_t, std::less<>> tensor_idx_;
};

/// A tensor to write whose data lie in several places, one after the other.
struct SafeTensorParts {
  std::string name;
  std::string dtype;
  std::vector<std::int64_t> shape;
  std::vector<std::span<const std::byte>> parts;
};

/// Writes a safetensors file beside `path` and renames it into place. The tensors are laid out by
/// falling element size, so that each is aligned to its element.
void write_safetensors(const std::filesystem::path& path, std::span<const SafeTensorParts> tensors,
                       const std::map<std::string, std::string>& metadata);
void write_safetensors(const std::filesystem::path& path, std::span<const SafeTensor> tensors,
                       const std::map<std::string, std::string>& metadata);

}  // namespace gsa::core
