#include "text/unicode.h"

#include <utf8proc.h>

#include <algorithm>
#include <cstdlib>
#include <iterator>
#include <memory>

#include "core/error.h"

namespace gsa::text {
namespace {

struct Range {
  char32_t first;
  char32_t last;
};

// Combining characters that came after Unicode 9, the version of the `tokenizers` package: models
// were trained on text in which they stayed where they were.
constexpr Range young_marks[] = {
    {0x7fd, 0x7fd},     {0x898, 0x89f},     {0x8ca, 0x8d3},     {0x9fe, 0x9fe},
    {0xc3c, 0xc3c},     {0xd3b, 0xd3c},     {0xeba, 0xeba},     {0x1715, 0x1715},
    {0x1abf, 0x1ace},   {0x1df6, 0x1dfa},   {0xa82c, 0xa82c},   {0x10d24, 0x10d27},
    {0x10eab, 0x10eac}, {0x10efd, 0x10eff}, {0x10f46, 0x10f50}, {0x10f82, 0x10f85},
    {0x11070, 0x11070}, {0x1133b, 0x1133b}, {0x1145e, 0x1145e}, {0x11839, 0x1183a},
    {0x11930, 0x11930}, {0x1193d, 0x1193e}, {0x11943, 0x11943}, {0x119e0, 0x119e0},
    {0x11a34, 0x11a34}, {0x11a47, 0x11a47}, {0x11a99, 0x11a99}, {0x11d42, 0x11d42},
    {0x11d44, 0x11d45}, {0x11d97, 0x11d97}, {0x11f41, 0x11f42}, {0x16ff0, 0x16ff1},
    {0x1e08f, 0x1e08f}, {0x1e130, 0x1e136}, {0x1e2ae, 0x1e2ae}, {0x1e2ec, 0x1e2ef},
    {0x1e4ec, 0x1e4ef}};

bool is_young_mark(char32_t c) {
  const auto* range = std::ranges::lower_bound(young_marks, c, {}, &Range::last);
  return range != std::end(young_marks) && range->first <= c;
}

std::string to_nfc_of_any_age(std::string_view text) {
  utf8proc_uint8_t* normalized = nullptr;
  const auto len = utf8proc_map(reinterpret_cast<const utf8proc_uint8_t*>(text.data()),
                                static_cast<utf8proc_ssize_t>(text.size()), &normalized,
                                static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE));
  const std::unique_ptr<utf8proc_uint8_t, decltype(&std::free)> owner(normalized, &std::free);
  if (len < 0) {
    core::resource_error("tokenizer: normalising a text of {} bytes failed: {}", text.size(),
                         utf8proc_errmsg(len));
  }
  return std::string(reinterpret_cast<const char*>(normalized), static_cast<std::size_t>(len));
}

}  // namespace

char32_t first_code_point(std::string_view text) {
  utf8proc_int32_t code_point = 0xfffd;
  utf8proc_iterate(reinterpret_cast<const utf8proc_uint8_t*>(text.data()),
                   static_cast<utf8proc_ssize_t>(text.size()), &code_point);
  return code_point < 0 ? 0xfffd : static_cast<char32_t>(code_point);
}

char32_t last_code_point(std::string_view text) {
  auto begin = text.size() - 1;
  while (begin > 0 && (text[begin] & 0xc0) == 0x80) --begin;
  return first_code_point(text.substr(begin));
}

std::size_t first_char_len(std::string_view text) {
  std::size_t len = 1;
  while (len < text.size() && (text[len] & 0xc0) == 0x80) ++len;
  return len;
}

std::u32string to_code_points(std::string_view text) {
  std::u32string code_points;
  while (!text.empty()) {
    utf8proc_int32_t code_point = 0;
    const auto len = utf8proc_iterate(reinterpret_cast<const utf8proc_uint8_t*>(text.data()),
                                      static_cast<utf8proc_ssize_t>(text.size()), &code_point);
    code_points += len < 0 ? U'\xfffd' : static_cast<char32_t>(code_point);
    text.remove_prefix(len < 0 ? 1 : static_cast<std::size_t>(len));
  }
  return code_points;
}

std::string to_utf8(std::u32string_view code_points) {
  std::string text;
  for (const char32_t code_point : code_points) {
    utf8proc_uint8_t bytes[4];
    const auto len = utf8proc_encode_char(static_cast<utf8proc_int32_t>(code_point), bytes);
    text.append(reinterpret_cast<const char*>(bytes), static_cast<std::size_t>(len));
  }
  return text;
}

char32_t to_lower(char32_t code_point) {
  return static_cast<char32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(code_point)));
}

bool is_decimal_digit(char32_t code_point) {
  return utf8proc_category(static_cast<utf8proc_int32_t>(code_point)) == UTF8PROC_CATEGORY_ND;
}

bool is_letter_or_number(char32_t code_point) {
  const auto category = utf8proc_category(static_cast<utf8proc_int32_t>(code_point));
  return (category >= UTF8PROC_CATEGORY_LU && category <= UTF8PROC_CATEGORY_LO) ||
         (category >= UTF8PROC_CATEGORY_ND && category <= UTF8PROC_CATEGORY_NO);
}

bool is_space(char32_t c) {
  return (c >= 0x09 && c <= 0x0d) || c == 0x20 || c == 0x85 || c == 0xa0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 || c == 0x202f || c == 0x205f ||
         c == 0x3000;
}

bool is_word_char(char32_t code_point) {
  switch (utf8proc_category(static_cast<utf8proc_int32_t>(code_point))) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_PC:
      return true;
    default:
      return false;
  }
}

std::size_t leading_space_bytes(std::string_view text) {
  std::size_t len = 0;
  while (len < text.size() && is_space(first_code_point(text.substr(len)))) {
    len += first_char_len(text.substr(len));
  }
  return len;
}

std::size_t trailing_space_bytes(std::string_view text) {
  const auto size = text.size();
  while (!text.empty() && is_space(last_code_point(text))) {
    do text.remove_suffix(1);
    while (!text.empty() && (text.data()[text.size()] & 0xc0) == 0x80);
  }
  return size - text.size();
}

bool is_surely_nfc(std::string_view text) {
  // No character below U+0300, whose first byte is 0xcc, is changed by composition.
  return std::ranges::all_of(text, [](unsigned char byte) { return byte < 0xcc; });
}

std::string to_nfc(std::string_view text) {
  std::string out;
  std::size_t done = 0;
  for (std::size_t at = 0, len = 0; at < text.size(); at += len) {
    len = first_char_len(text.substr(at));
    if (len == 1 || !is_young_mark(first_code_point(text.substr(at, len)))) continue;
    out += to_nfc_of_any_age(text.substr(done, at - done));
    out += text.substr(at, len);
    done = at + len;
  }
  return done == 0 ? to_nfc_of_any_age(text) : out + to_nfc_of_any_age(text.substr(done));
}

}  // namespace gsa::text
