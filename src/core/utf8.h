#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace gsa::core {

/// Bytes made valid UTF-8.
struct DecodedText {
  std::string text;
  std::size_t num_replaced = 0;      ///< ill-formed sequences that became U+FFFD
  std::size_t first_bad_offset = 0;  ///< byte offset of the first one; 0 if there is none
};

/// Replaces every maximal ill-formed subpart by U+FFFD (Unicode 15, section 3.9, table 3-8): the
/// same text as Python's `bytes.decode("utf-8", errors="replace")`.
DecodedText decode_utf8(std::string_view bytes);

/// Byte order marks.
enum class Bom { none, utf8, utf16_le, utf16_be, utf32_le, utf32_be };

Bom find_bom(std::string_view bytes);

/// The text of a document: drops a UTF-8 byte order mark, refuses UTF-16 and UTF-32 (input error
/// that names the encoding), replaces ill-formed bytes and logs one warning with their number and
/// the first one's offset in `bytes`. NUL bytes stay, with a warning that names the first one's
/// offset. `what` (usually the path) names the document.
std::string decode_document(std::string_view bytes, std::string_view what);

/// A name from a file as an error message may show it: one line, no control characters, valid
/// UTF-8, at most about 80 bytes.
std::string printable(std::string_view bytes);

}  // namespace gsa::core
