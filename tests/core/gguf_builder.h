#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace gsa::test {

/// Writes GGUF bytes by hand, so that every field can be wrong.
class GgufBuilder {
 public:
  /// Magic, version and the two counts.
  GgufBuilder(std::uint64_t num_tensors, std::uint64_t num_keys, std::uint32_t version = 3) {
    bytes_ = "GGUF";
    put(version).put(num_tensors).put(num_keys);
  }

  template <typename T>
  GgufBuilder& put(T value) {
    bytes_.append(reinterpret_cast<const char*>(&value), sizeof(T));
    return *this;
  }

  GgufBuilder& string(std::string_view text) {
    put(std::uint64_t{text.size()});
    bytes_.append(text);
    return *this;
  }

  /// A key and the number of its value's kind; the value comes next.
  GgufBuilder& key(std::string_view name, std::uint32_t kind) { return string(name).put(kind); }

  /// What the header says about one tensor; `dims` in the file's order (innermost first).
  GgufBuilder& tensor(std::string_view name, const std::vector<std::uint64_t>& dims,
                      std::uint32_t type, std::uint64_t offset) {
    string(name).put(static_cast<std::uint32_t>(dims.size()));
    for (const std::uint64_t dim : dims) put(dim);
    return put(type).put(offset);
  }

  /// Zeros up to a multiple of `alignment`, then `num_bytes` of data.
  GgufBuilder& data(std::size_t num_bytes, std::size_t alignment = 32) {
    bytes_.resize((bytes_.size() + alignment - 1) / alignment * alignment);
    for (std::size_t i = 0; i < num_bytes; ++i) bytes_.push_back(static_cast<char>(i * 37));
    return *this;
  }

  const std::string& bytes() const { return bytes_; }

 private:
  std::string bytes_;
};

constexpr std::uint32_t gguf_u32 = 4;
constexpr std::uint32_t gguf_string = 8;
constexpr std::uint32_t gguf_array = 9;

constexpr std::uint32_t ggml_f32 = 0;
constexpr std::uint32_t ggml_q4_0 = 2;
constexpr std::uint32_t ggml_q4_k = 12;

}  // namespace gsa::test
