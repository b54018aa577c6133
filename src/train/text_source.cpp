#include "train/text_source.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <utility>

#include "core/error.h"
#include "core/json.h"
#include "core/log.h"
#include "core/utf8.h"
#include "text/sha256.h"

namespace gsa::train {
namespace {

using core::input_error;
using core::TextFile;

constexpr std::size_t kBlockBytes = std::size_t{1} << 20;
constexpr std::size_t kUtf8BomBytes = 3;

bool is_continuation(char byte) { return (static_cast<unsigned char>(byte) & 0xC0) == 0x80; }

void replace_line_ends(std::string& text) {
  if (text.find('\r') == std::string::npos) return;
  std::string out;
  out.reserve(text.size());
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '\r' && i + 1 < text.size() && text[i + 1] == '\n') continue;
    out += text[i];
  }
  text = std::move(out);
}

/// Where a block of plain text ends: behind its last line feed, or else its last whole character.
std::size_t find_cut(std::string_view text) {
  const auto line_end = text.rfind('\n');
  if (line_end != std::string_view::npos) return line_end + 1;
  constexpr int max_continuation = 3;  // bytes of a character behind its first
  std::size_t cut = text.size() - 1;
  for (int i = 0; i < max_continuation && cut > 1 && is_continuation(text[cut]); ++i) --cut;
  return cut;
}

}  // namespace

DocumentReader::DocumentReader(const TextFile& file, std::string field)
    : file_(&file), field_(std::move(field)) {
  if (file.is_json_lines()) {
    records_.emplace(file);
  } else {
    plain_ = file.open_source();
  }
}

std::optional<TextBlock> DocumentReader::next() { return records_ ? next_record() : next_plain(); }

std::size_t DocumentReader::num_consumed() const {
  return records_ ? records_->num_consumed() : plain_->num_consumed();
}

std::optional<TextBlock> DocumentReader::next_record() {
  nlohmann::json record;
  if (!records_->next(record)) return std::nullopt;
  auto text = core::find_string(record, field_, records_->where());
  if (!text) {
    std::vector<std::string> names;
    for (const auto& [name, value] : record.items()) names.push_back(core::printable(name));
    input_error("data: {}: has no field '{}'; it has {}: name the text's with --field",
                records_->where(), field_, fmt::join(names, ", "));
  }
  replace_line_ends(*text);
  return TextBlock{std::move(*text)};
}

std::optional<TextBlock> DocumentReader::next_plain() {
  if (is_over_) return std::nullopt;
  fill_plain();
  std::string bytes = std::exchange(rest_, {});
  if (bytes.size() > kBlockBytes) {
    const std::size_t cut = find_cut(std::string_view(bytes).substr(0, kBlockBytes));
    rest_ = bytes.substr(cut);
    bytes.resize(cut);
  } else {
    is_over_ = true;
  }
  core::DecodedText decoded = core::decode_utf8(bytes);
  if (decoded.num_replaced > 0) {
    core::log_warning(fmt::format("data: {}: {} ill-formed UTF-8 sequences were replaced",
                                  file_->name(), decoded.num_replaced));
  }
  return TextBlock{std::move(decoded.text), is_over_};
}

/// Reads until there is more than a block, or everything. Line ends are replaced before a block is
/// cut, so that where it ends does not depend on them.
void DocumentReader::fill_plain() {
  while (rest_.size() <= kBlockBytes) {
    std::string bytes(kBlockBytes, '\0');
    bytes.resize(plain_->read(bytes));
    if (bytes.empty()) return;
    if (num_bytes_read_ == 0) {
      const core::Bom bom = core::find_bom(bytes);
      if (bom == core::Bom::utf8) {
        bytes.erase(0, kUtf8BomBytes);
        num_bytes_read_ += kUtf8BomBytes;
      } else if (bom != core::Bom::none) {
        (void)core::decode_document(bytes, file_->name());  // refuses it
      }
    }
    if (const auto zero = bytes.find('\0'); zero != std::string::npos) {
      input_error("data: {}: byte {} is zero: this is no text", file_->name(),
                  num_bytes_read_ + zero);
    }
    num_bytes_read_ += bytes.size();
    rest_ += bytes;
    replace_line_ends(rest_);
  }
}

std::string sha256_of(const TextFile& file) {
  text::Sha256 digest;
  digest.update({reinterpret_cast<const char*>(file.bytes().data()), file.num_bytes()});
  return digest.finish();
}

std::int64_t count_chars(std::string_view text) {
  return std::ranges::count_if(text, [](char byte) { return !is_continuation(byte); });
}

std::size_t char_offset(std::string_view text, std::int64_t char_idx) {
  std::int64_t num_begun = 0;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (!is_continuation(text[i]) && num_begun++ == char_idx) return i;
  }
  return text.size();
}

}  // namespace gsa::train
