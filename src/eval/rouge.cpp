#include "eval/rouge.h"

#include <algorithm>
#include <cstddef>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "eval/words.h"

namespace gsa::eval {
namespace {

/// Words as numbers, equal for equal words.
using Sentence = std::vector<int>;

class Vocabulary {
 public:
  /// The sentences of a text. One of white space alone holds a single empty word.
  std::vector<Sentence> cut(std::u32string_view text) {
    std::vector<Sentence> sentences;
    while (!text.empty()) {
      const std::size_t len = std::min(text.find(U'.'), text.size());
      if (len > 0) sentences.push_back(number(split_words(text.substr(0, len))));
      text.remove_prefix(std::min(len + 1, text.size()));
    }
    return sentences;
  }

 private:
  Sentence number(std::vector<std::u32string> words) {
    if (words.empty()) words.emplace_back();
    Sentence sentence;
    for (std::u32string& word : words) {
      const int next = static_cast<int>(numbers_.size());
      sentence.push_back(numbers_.try_emplace(std::move(word), next).first->second);
    }
    return sentence;
  }

  std::map<std::u32string, int> numbers_;
};

/// Adds the words of the longest common subsequence that is found from the end, where a word of
/// `y` is passed over rather than one of `x`.
void add_common(const Sentence& x, const Sentence& y, std::set<int>& words) {
  const std::size_t width = y.size() + 1;
  std::vector<int> table((x.size() + 1) * width);  // lengths for the first i and j words
  for (std::size_t i = 1; i <= x.size(); ++i) {
    for (std::size_t j = 1; j <= y.size(); ++j) {
      const std::size_t at = i * width + j;
      table[at] = x[i - 1] == y[j - 1] ? table[at - width - 1] + 1
                                       : std::max(table[at - width], table[at - 1]);
    }
  }
  for (std::size_t i = x.size(), j = y.size(); i > 0 && j > 0;) {
    const std::size_t at = i * width + j;
    if (x[i - 1] == y[j - 1]) {
      words.insert(x[i - 1]);
      --i;
      --j;
    } else if (table[at - width] > table[at - 1]) {
      --i;
    } else {
      --j;
    }
  }
}

double num_different(const std::vector<Sentence>& sentences) {
  std::set<int> words;
  for (const Sentence& sentence : sentences) words.insert(sentence.begin(), sentence.end());
  return static_cast<double>(words.size());
}

}  // namespace

double rouge_l(std::u32string_view prediction, std::u32string_view reference) {
  Vocabulary vocabulary;
  const auto given = vocabulary.cut(prediction);
  const auto right = vocabulary.cut(reference);
  if (given.empty() || right.empty()) return 0;
  std::set<int> common;
  for (const Sentence& x : right)
    for (const Sentence& y : given) add_common(x, y, common);
  const double recall = static_cast<double>(common.size()) / num_different(right);
  const double precision = static_cast<double>(common.size()) / num_different(given);
  return 2 * (precision * recall / (precision + recall + 1e-8));
}

}  // namespace gsa::eval
