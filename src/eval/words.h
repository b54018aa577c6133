#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace gsa::eval {

/// White space as Python's `str.split` sees it.
bool separates_words(char32_t code_point);

/// The words between white space; none of them is empty.
std::vector<std::u32string> split_words(std::u32string_view text);

}  // namespace gsa::eval
