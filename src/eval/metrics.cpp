#include "eval/metrics.h"

#include <algorithm>
#include <cstdint>
#include <map>
#include <sstream>
#include <vector>

namespace gsa::eval {
namespace {

bool is_punctuation(char c) {
  return (c >= '!' && c <= '/') || (c >= ':' && c <= '@') || (c >= '[' && c <= '`') ||
         (c >= '{' && c <= '~');
}

std::vector<std::string> words_of(const std::string& normalized) {
  std::istringstream stream(normalized);
  std::vector<std::string> words;
  for (std::string word; stream >> word;) words.push_back(word);
  return words;
}

double word_f1(const std::vector<std::string>& prediction, const std::vector<std::string>& answer) {
  if (prediction.empty() || answer.empty()) return prediction.empty() && answer.empty() ? 1 : 0;
  std::map<std::string, std::int64_t> left;
  for (const std::string& word : answer) ++left[word];
  double num_common = 0;
  for (const std::string& word : prediction) num_common += left[word]-- > 0;
  if (num_common == 0) return 0;
  const double precision = num_common / static_cast<double>(prediction.size());
  const double recall = num_common / static_cast<double>(answer.size());
  return 2 * precision * recall / (precision + recall);
}

}  // namespace

std::string normalize_answer(std::string_view text) {
  std::string kept;
  for (const char c : text) {
    if (!is_punctuation(c)) kept += c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  }
  std::string normalized;
  for (const std::string& word : words_of(kept)) {
    if (word == "a" || word == "an" || word == "the") continue;
    if (!normalized.empty()) normalized += ' ';
    normalized += word;
  }
  return normalized;
}

QaScores score_qa(std::string_view prediction, std::span<const std::string> answers) {
  const std::string given = normalize_answer(prediction);
  const auto given_words = words_of(given);
  const std::string padded = " " + given + " ";
  QaScores best;
  for (const std::string& answer : answers) {
    const std::string right = normalize_answer(answer);
    best.exact_match = std::max(best.exact_match, given == right ? 1.0 : 0.0);
    best.f1 = std::max(best.f1, word_f1(given_words, words_of(right)));
    const bool contains = padded.find(" " + right + " ") != std::string::npos;
    best.contains = std::max(best.contains, contains ? 1.0 : 0.0);
  }
  return best;
}

}  // namespace gsa::eval
