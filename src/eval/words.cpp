#include "eval/words.h"

#include "text/unicode.h"

namespace gsa::eval {

bool separates_words(char32_t code_point) {
  return text::is_space(code_point) || (code_point >= 0x1c && code_point <= 0x1f);
}

std::vector<std::u32string> split_words(std::u32string_view text) {
  std::vector<std::u32string> words;
  bool is_inside = false;
  for (const char32_t code_point : text) {
    if (separates_words(code_point)) {
      is_inside = false;
      continue;
    }
    if (!is_inside) words.emplace_back();
    is_inside = true;
    words.back() += code_point;
  }
  return words;
}

}  // namespace gsa::eval
