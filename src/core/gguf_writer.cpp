#include <algorithm>
#include <array>
#include <cstring>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "core/error.h"
#include "core/file.h"
#include "core/gguf.h"
#include "core/gguf_header.h"

namespace gsa::core {
namespace {

constexpr std::uint32_t format_version = 3;

std::uint32_t type_id(DataType type) {
  for (const auto& [id, known] : gguf_types) {
    if (known == type) return id;
  }
  internal_error("gguf: type {} has no number", static_cast<int>(type));
}

class Header {
 public:
  template <typename T>
  void add(T value) {
    bytes_.append(reinterpret_cast<const char*>(&value), sizeof(T));
  }
  void add_bytes(std::span<const std::byte> bytes) {
    bytes_.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  }
  void add_string(std::string_view text) {
    add<std::uint64_t>(text.size());
    bytes_.append(text);
  }
  /// The number of entries, then each: those of a file unless a string takes their place.
  void add_metadata(std::span<const GgufEntry> entries,
                    const std::map<std::string, std::string>& strings) {
    const auto stays = [&](const GgufEntry& entry) { return !strings.contains(entry.key); };
    const auto num_staying = static_cast<std::uint64_t>(std::ranges::count_if(entries, stays));
    add<std::uint64_t>(num_staying + strings.size());
    for (const GgufEntry& entry : entries)
      if (stays(entry)) add_bytes(entry.bytes);
    for (const auto& [key, value] : strings) {
      add_string(key);
      add(gguf_string_kind);
      add_string(value);
    }
  }
  void pad(std::uint64_t alignment) {
    bytes_.resize((bytes_.size() + alignment - 1) / alignment * alignment);
  }
  std::span<const std::byte> bytes() const { return std::as_bytes(std::span(bytes_)); }

 private:
  std::string bytes_;
};

}  // namespace

void write_gguf(const std::filesystem::path& path, const GgufFile& like,
                std::span<const GgufTensor> tensors,
                const std::map<std::string, std::string>& strings) {
  const std::uint64_t alignment = like.get_uint_or("general.alignment", gguf_default_alignment);
  const std::vector<std::byte> zeros(alignment);
  Header header;
  header.add_bytes(std::as_bytes(std::span("GGUF", 4)));
  header.add(format_version);
  header.add<std::uint64_t>(tensors.size());
  header.add_metadata(like.metadata_entries(), strings);
  std::vector<std::span<const std::byte>> parts(1);  // the header comes first
  std::uint64_t offset = 0;
  for (const GgufTensor& tensor : tensors) {
    header.add_string(tensor.name);
    header.add(static_cast<std::uint32_t>(tensor.shape.size()));
    for (auto size = tensor.shape.rbegin(); size != tensor.shape.rend(); ++size)
      header.add(static_cast<std::uint64_t>(*size));
    header.add(type_id(tensor.type));
    header.add(offset);
    parts.push_back(tensor.data);
    const std::uint64_t rest = tensor.data.size() % alignment;
    if (rest != 0) parts.push_back(std::span(zeros).first(alignment - rest));
    offset += (tensor.data.size() + alignment - 1) / alignment * alignment;
  }
  header.pad(alignment);
  parts[0] = header.bytes();
  write_file_atomic(path, parts);
}

}  // namespace gsa::core
