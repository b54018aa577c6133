#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "core/quant.h"

namespace gsa::core {

class MappedFile;

/// One metadata value of a GGUF file. Integers of all widths are widened; arrays are typed.
using GgufValue =
    std::variant<bool, std::int64_t, std::uint64_t, double, std::string, std::vector<bool>,
                 std::vector<std::int64_t>, std::vector<double>, std::vector<std::string>>;

/// One tensor as it lies in the file. Its data may begin at any address.
struct GgufTensor {
  std::string name;
  DataType type;
  std::vector<std::int64_t> shape;  ///< row-major order (outermost first), as in PyTorch
  std::span<const std::byte> data;  ///< inside the mapped file; valid while the GgufFile lives
};

/// One metadata entry as it lies in the file.
struct GgufEntry {
  std::string key;
  std::span<const std::byte> bytes;  ///< key, kind and value; valid while the GgufFile lives
};

/// A memory-mapped GGUF file (versions 2 and 3). Everything is checked against the file's size
/// before any allocation that depends on it; a damaged file throws an input error that names the
/// file and the field.
class GgufFile {
 public:
  static GgufFile open(const std::filesystem::path& path);

  const std::filesystem::path& path() const;
  const std::map<std::string, GgufValue, std::less<>>& metadata() const;
  /// The same as they lie in the file, in its order.
  const std::vector<GgufEntry>& metadata_entries() const;
  const std::vector<GgufTensor>& tensors() const;
  /// Keeps the bytes of tensors and entries alive, without the rest of this object.
  std::shared_ptr<const void> bytes_owner() const;

  const GgufTensor* find_tensor(std::string_view name) const;  ///< nullptr if absent
  const GgufTensor& tensor(std::string_view name) const;       ///< input error if absent

  bool has(std::string_view key) const;
  /// Typed look-ups: input error if the key is absent or of another kind. The `_or` forms give the
  /// default if absent.
  std::uint64_t get_uint(std::string_view key) const;
  std::uint64_t get_uint_or(std::string_view key, std::uint64_t fallback) const;
  double get_float(std::string_view key) const;
  double get_float_or(std::string_view key, double fallback) const;
  bool get_bool_or(std::string_view key, bool fallback) const;
  const std::string& get_string(std::string_view key) const;
  std::string get_string_or(std::string_view key, std::string fallback) const;
  const std::vector<std::string>& get_strings(std::string_view key) const;
  const std::vector<std::int64_t>& get_ints(std::string_view key) const;
  const std::vector<double>& get_floats(std::string_view key) const;

 private:
  std::filesystem::path path_;
  std::shared_ptr<const MappedFile> file_;
  std::map<std::string, GgufValue, std::less<>> metadata_;
  std::vector<GgufEntry> metadata_entries_;
  std::vector<GgufTensor> tensors_;
  std::map<std::string, std::size_t, std::less<>> tensor_idx_;
};

/// Writes a GGUF file with the metadata of `like` and these tensors beside `path` and renames it
/// into place. `strings` are further metadata by key; they replace what `like` has under the same
/// key. Resource error if writing fails.
void write_gguf(const std::filesystem::path& path, const GgufFile& like,
                std::span<const GgufTensor> tensors,
                const std::map<std::string, std::string>& strings = {});

}  // namespace gsa::core
