#include "text/byte_alphabet.h"

#include <array>
#include <cstddef>
#include <cstdint>

namespace gsa::text {
namespace {

constexpr std::size_t alphabet_end = 0x144;  // code points of the alphabet lie below

/// Byte of every code point, -1 for those outside the alphabet. Bytes that print stand for
/// themselves, the others follow from U+0100 in order.
constexpr std::array<std::int16_t, alphabet_end> make_byte_table() {
  std::array<std::int16_t, alphabet_end> table{};
  for (auto& entry : table) entry = -1;
  std::size_t next = 0x100;
  for (std::int16_t byte = 0; byte < 256; ++byte) {
    const bool prints = (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte != 0xad);
    table[prints ? static_cast<std::size_t>(byte) : next++] = byte;
  }
  return table;
}
constexpr auto byte_of_code_point = make_byte_table();

}  // namespace

bool append_spelled_bytes(std::string_view spelled, std::string& bytes) {
  const auto old_size = bytes.size();
  for (std::size_t i = 0; i < spelled.size();) {
    std::size_t code_point = static_cast<unsigned char>(spelled[i++]);
    if (code_point >= 0x80) {  // two bytes are enough for the alphabet
      const bool has_two = code_point >= 0xc2 && code_point < 0xe0 && i < spelled.size() &&
                           (spelled[i] & 0xc0) == 0x80;
      code_point = has_two ? (code_point & 0x1f) << 6 | (spelled[i++] & 0x3f) : alphabet_end;
    }
    if (code_point >= alphabet_end || byte_of_code_point[code_point] < 0) {
      bytes.resize(old_size);
      return false;
    }
    bytes += static_cast<char>(byte_of_code_point[code_point]);
  }
  return true;
}

}  // namespace gsa::text
