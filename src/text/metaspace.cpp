#include "text/metaspace.h"

#include <charconv>

namespace gsa::text {

std::string metaspace_to_space(std::string_view text) {
  std::string result;
  result.reserve(text.size());
  while (true) {
    const auto at = text.find(metaspace);
    result += text.substr(0, at);
    if (at == std::string_view::npos) return result;
    result += ' ';
    text.remove_prefix(at + metaspace.size());
  }
}

std::optional<char> byte_of_spelling(std::string_view token) {
  if (token.size() != 6 || !token.starts_with("<0x") || !token.ends_with('>')) return std::nullopt;
  const auto digits = token.substr(3, 2);
  if (digits.find_first_not_of("0123456789ABCDEF") != std::string_view::npos) return std::nullopt;
  unsigned byte = 0;
  std::from_chars(digits.data(), digits.data() + digits.size(), byte, 16);
  return static_cast<char>(byte);
}

}  // namespace gsa::text
