#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace gsa::eval {

/// An answer as SQuAD's scorer compares it (Rajpurkar et al. 2016): ASCII letters in lower case,
/// without ASCII punctuation and the words a, an, the, words separated by single spaces.
std::string normalize_answer(std::string_view text);

/// Scores of one prediction, each the best over the right answers, from 0 to 1.
struct QaScores {
  double exact_match = 0;
  double f1 = 0;        ///< of words as multisets
  double contains = 0;  ///< the answer's words stand in the prediction, in order and side by side
};
QaScores score_qa(std::string_view prediction, std::span<const std::string> answers);

}  // namespace gsa::eval
