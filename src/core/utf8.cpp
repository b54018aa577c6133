#include "core/utf8.h"

#include <cstdint>
#include <cstring>

#include "core/error.h"
#include "core/log.h"

namespace gsa::core {
namespace {

constexpr std::string_view replacement = "\xEF\xBF\xBD";  // U+FFFD

/// What must follow a lead byte: `num_following` continuation bytes, the first of them in
/// [min_second, max_second]. Zero following bytes: no lead byte.
struct Sequence {
  int num_following;
  std::uint8_t min_second;
  std::uint8_t max_second;
};

constexpr Sequence sequence_of(std::uint8_t lead) {
  if (lead >= 0xC2 && lead <= 0xDF) return {1, 0x80, 0xBF};
  if (lead == 0xE0) return {2, 0xA0, 0xBF};  // below: overlong
  if (lead == 0xED) return {2, 0x80, 0x9F};  // above: surrogates
  if (lead >= 0xE1 && lead <= 0xEF) return {2, 0x80, 0xBF};
  if (lead == 0xF0) return {3, 0x90, 0xBF};  // below: overlong
  if (lead >= 0xF1 && lead <= 0xF3) return {3, 0x80, 0xBF};
  if (lead == 0xF4) return {3, 0x80, 0x8F};  // above: beyond U+10FFFF
  return {0, 0, 0};
}

/// The bytes at `begin` that form one character, or the longest beginning of one.
struct Subpart {
  std::size_t len;
  bool is_whole;
};

Subpart subpart_at(std::string_view bytes, std::size_t begin) {
  const auto byte_at = [&](std::size_t i) { return static_cast<std::uint8_t>(bytes[i]); };
  const auto [num_following, min_second, max_second] = sequence_of(byte_at(begin));
  if (num_following == 0) return {1, false};
  const std::size_t whole_len = 1 + static_cast<std::size_t>(num_following);
  for (std::size_t len = 1; len < whole_len; ++len) {
    if (begin + len == bytes.size()) return {len, false};
    const std::uint8_t byte = byte_at(begin + len);
    const bool fits =
        len == 1 ? byte >= min_second && byte <= max_second : byte >= 0x80 && byte <= 0xBF;
    if (!fits) return {len, false};
  }
  return {whole_len, true};
}

/// The first byte at or after `begin` that is not ASCII.
std::size_t skip_ascii(std::string_view bytes, std::size_t begin) {
  constexpr std::uint64_t high_bits = 0x8080808080808080;
  std::uint64_t word = 0;
  while (begin + sizeof(word) <= bytes.size()) {
    std::memcpy(&word, bytes.data() + begin, sizeof(word));
    if ((word & high_bits) != 0) break;
    begin += sizeof(word);
  }
  while (begin < bytes.size() && static_cast<std::uint8_t>(bytes[begin]) < 0x80) ++begin;
  return begin;
}

struct BomEntry {
  Bom bom;
  std::string_view bytes;
  std::string_view encoding;  // as iconv spells it
};

using namespace std::string_view_literals;

// UTF-32 before UTF-16: its little-endian mark begins with the other's.
constexpr BomEntry boms[] = {
    {Bom::utf8, "\xEF\xBB\xBF"sv, "UTF-8"},        {Bom::utf32_le, "\xFF\xFE\0\0"sv, "UTF-32LE"},
    {Bom::utf32_be, "\0\0\xFE\xFF"sv, "UTF-32BE"}, {Bom::utf16_le, "\xFF\xFE"sv, "UTF-16LE"},
    {Bom::utf16_be, "\xFE\xFF"sv, "UTF-16BE"},
};

const BomEntry* find_bom_entry(std::string_view bytes) {
  for (const BomEntry& entry : boms) {
    if (bytes.starts_with(entry.bytes)) return &entry;
  }
  return nullptr;
}

}  // namespace

DecodedText decode_utf8(std::string_view bytes) {
  DecodedText decoded;
  decoded.text.reserve(bytes.size());
  std::size_t good_begin = 0;  // well-formed bytes that are not copied yet
  for (std::size_t i = skip_ascii(bytes, 0); i < bytes.size(); i = skip_ascii(bytes, i)) {
    const auto [len, is_whole] = subpart_at(bytes, i);
    if (!is_whole) {
      if (decoded.num_replaced++ == 0) decoded.first_bad_offset = i;
      decoded.text.append(bytes.substr(good_begin, i - good_begin)).append(replacement);
      good_begin = i + len;
    }
    i += len;
  }
  decoded.text.append(bytes.substr(good_begin));
  return decoded;
}

Bom find_bom(std::string_view bytes) {
  const BomEntry* entry = find_bom_entry(bytes);
  return entry == nullptr ? Bom::none : entry->bom;
}

std::string decode_document(std::string_view bytes, std::string_view what) {
  std::size_t bom_len = 0;
  if (const BomEntry* entry = find_bom_entry(bytes)) {
    if (entry->bom != Bom::utf8) {
      input_error("document: {}: is {}, not UTF-8; convert it with: iconv -f {} -t UTF-8", what,
                  entry->encoding, entry->encoding);
    }
    bom_len = entry->bytes.size();
  }
  // Valid UTF-8, but no text has them: UTF-16 without its mark, or another kind of file.
  if (const std::size_t at = bytes.find('\0'); at != std::string_view::npos) {
    log_warning(fmt::format("document: {}: byte {} is NUL; is it text in UTF-8?", what, at));
  }
  DecodedText decoded = decode_utf8(bytes.substr(bom_len));
  if (decoded.num_replaced > 0) {
    log_warning(fmt::format(
        "document: {}: {} ill-formed UTF-8 sequence(s), the first at byte {}; read as U+FFFD", what,
        decoded.num_replaced, bom_len + decoded.first_bad_offset));
  }
  return std::move(decoded.text);
}

std::string printable(std::string_view bytes) {
  constexpr std::size_t max_bytes = 80;
  std::string text = decode_utf8(bytes.substr(0, max_bytes)).text;
  for (char& c : text) {
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7F) c = '?';
  }
  if (bytes.size() > max_bytes) text += "...";
  return text;
}

}  // namespace gsa::core
