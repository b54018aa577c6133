#pragma once

#include <string_view>

namespace gsa::eval {

/// Twice the characters that match divided by all characters of both, as Python's
/// `difflib.SequenceMatcher(None, a, b).ratio()` finds them (Ratcliff & Obershelp 1988): the
/// longest block that both share, then the same left and right of it. Of a `b` with 200 characters
/// or more, those that occur in more than one place of a hundred begin no block. 1 for two empty
/// texts.
double sequence_ratio(std::u32string_view a, std::u32string_view b);

}  // namespace gsa::eval
