#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace gsa::text {

/// First and last code point of valid, non-empty UTF-8.
char32_t first_code_point(std::string_view text);
char32_t last_code_point(std::string_view text);
/// Bytes of the first character of valid, non-empty UTF-8.
std::size_t first_char_len(std::string_view text);

/// Code points of a text; bytes that are no UTF-8 become U+FFFD, one each.
std::u32string to_code_points(std::string_view text);
std::string to_utf8(std::u32string_view code_points);

/// The simple mapping to lower case.
char32_t to_lower(char32_t code_point);
bool is_decimal_digit(char32_t code_point);
bool is_letter_or_number(char32_t code_point);

/// Has the property White_Space.
bool is_space(char32_t code_point);
/// Letter, mark, decimal digit or connector: `\w` of a regular expression.
bool is_word_char(char32_t code_point);

/// Bytes of the white space at the beginning or end of valid UTF-8.
std::size_t leading_space_bytes(std::string_view text);
std::size_t trailing_space_bytes(std::string_view text);

/// Normalisation form C of valid UTF-8.
std::string to_nfc(std::string_view text);
/// A quick test: true means that `to_nfc` would change nothing.
bool is_surely_nfc(std::string_view text);

}  // namespace gsa::text
