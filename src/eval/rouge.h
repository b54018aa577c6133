#pragma once

#include <string_view>

namespace gsa::eval {

/// F of summary-level ROUGE-L (Lin 2004) as the package `rouge` 1.0.1 computes it. A text is cut
/// into sentences at full stops and into words at white space. The union of the longest common
/// subsequences of every pair of sentences is a set of words, and so are both texts: a word counts
/// once however often it stands there. 0 if a text has nothing but full stops.
/// The package gives up on sentences of about a thousand words (recursion); this does not.
double rouge_l(std::u32string_view prediction, std::u32string_view reference);

}  // namespace gsa::eval
