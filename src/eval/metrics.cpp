#include "eval/metrics.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <utility>

#include "core/error.h"
#include "core/utf8.h"
#include "eval/rouge.h"
#include "eval/sequence_ratio.h"
#include "eval/words.h"
#include "text/unicode.h"

namespace gsa::eval {
namespace {

using text::to_code_points;

constexpr std::array<std::pair<Metric, std::string_view>, 12> metric_names = {
    {{Metric::qa_f1, "qa_f1"},
     {Metric::qa_f1_zh, "qa_f1_zh"},
     {Metric::rouge_l, "rouge_l"},
     {Metric::rouge_l_zh, "rouge_l_zh"},
     {Metric::classification, "classification"},
     {Metric::retrieval, "retrieval"},
     {Metric::retrieval_zh, "retrieval_zh"},
     {Metric::count, "count"},
     {Metric::code_similarity, "code_similarity"},
     {Metric::subspan_match, "subspan_match"},
     {Metric::last_number, "last_number"},
     {Metric::found, "found"}}};

constexpr std::u32string_view chinese_punctuation =
    U"！？｡。＂＃＄％＆＇（）＊＋，－／：；＜＝＞＠［＼］＾＿｀｛｜｝～｟｠｢｣､、〃》「」『』【】〔"
    U"〕〖〗〘〙〚〛〜〝〞〟〰〾〿–—‘’‛“”„‟…‧"
    U"﹏.";

bool is_punctuation(char32_t c) {
  return (c >= '!' && c <= '/') || (c >= ':' && c <= '@') || (c >= '[' && c <= '`') ||
         (c >= '{' && c <= '~');
}

bool is_article(std::u32string_view word) {
  return word == U"a" || word == U"an" || word == U"the";
}

bool is_word_char(char32_t c) { return c == U'_' || text::is_letter_or_number(c); }

/// As Python's `str.lower`, but for the final sigma.
void append_lower(std::u32string& text, char32_t c) {
  if (c == U'\u0130') {
    text += U"i\u0307";
  } else {
    text += text::to_lower(c);
  }
}

std::u32string lower(std::string_view text) {
  std::u32string lowered;
  for (const char32_t c : to_code_points(text)) append_lower(lowered, c);
  return lowered;
}

/// Articles that stand for themselves become spaces.
std::u32string without_articles(std::u32string_view text) {
  std::u32string kept;
  for (std::size_t begin = 0, end = 0; begin < text.size(); begin = end) {
    const bool is_word = is_word_char(text[begin]);
    while (end < text.size() && is_word_char(text[end]) == is_word) ++end;
    const auto run = text.substr(begin, end - begin);
    if (is_word && is_article(run)) {
      kept += U' ';
    } else {
      kept += run;
    }
  }
  return kept;
}

/// The words that SQuAD's scorer compares.
std::vector<std::u32string> normal_words(std::string_view text) {
  std::u32string kept;
  for (const char32_t c : lower(text))
    if (!is_punctuation(c)) kept += c;
  return split_words(without_articles(kept));
}

std::string join(const std::vector<std::u32string>& words) {
  std::string joined;
  for (const std::u32string& word : words)
    joined.append(joined.empty() ? "" : " ").append(text::to_utf8(word));
  return joined;
}

/// Characters that are compared in Chinese.
std::vector<std::u32string> normal_chars(std::string_view text) {
  std::vector<std::u32string> chars;
  for (const char32_t c : lower(text)) {
    if (is_punctuation(c) || separates_words(c) ||
        chinese_punctuation.find(c) != std::u32string_view::npos)
      continue;
    chars.emplace_back(1, c);
  }
  return chars;
}

std::u32string spaced_chars(std::string_view text) {
  std::u32string spaced;
  for (const char32_t c : to_code_points(text)) (spaced += c) += U' ';
  return spaced;
}

template <typename Word>
double f1_of(const std::vector<Word>& prediction, const std::vector<Word>& answer) {
  std::map<Word, std::int64_t> left;
  for (const Word& word : answer) ++left[word];
  double num_common = 0;
  for (const Word& word : prediction) num_common += left[word]-- > 0;
  if (num_common == 0) return 0;
  const double precision = num_common / static_cast<double>(prediction.size());
  const double recall = num_common / static_cast<double>(answer.size());
  return 2 * precision * recall / (precision + recall);
}

/// Runs of decimal digits.
std::vector<std::u32string> numbers_in(std::u32string_view text) {
  std::vector<std::u32string> numbers;
  bool is_inside = false;
  for (const char32_t c : text) {
    const bool is_digit = text::is_decimal_digit(c);
    if (is_digit && !is_inside) numbers.emplace_back();
    if (is_digit) numbers.back() += c;
    is_inside = is_digit;
  }
  return numbers;
}

double share_equal(const std::vector<std::u32string>& numbers, std::u32string_view right) {
  if (numbers.empty()) return 0;
  return static_cast<double>(std::ranges::count(numbers, right)) /
         static_cast<double>(numbers.size());
}

/// The number behind the first `word` that has one; empty if there is none.
std::u32string number_behind(std::u32string_view text, std::u32string_view word) {
  for (auto at = text.find(word); at != text.npos; at = text.find(word, at + 1)) {
    const auto rest = text.substr(at + word.size());
    if (!rest.empty() && text::is_decimal_digit(rest.front())) return numbers_in(rest).front();
  }
  return {};
}

double retrieval(std::u32string_view prediction, std::u32string_view answer,
                 std::u32string_view word) {
  const std::u32string right = number_behind(answer, word);
  return right.empty() ? 0 : share_equal(numbers_in(prediction), right);
}

/// LongBench goes through the classes found while it takes out those that are part of the right
/// one, so it passes over the class behind each that it takes out.
double classification(std::string_view prediction, std::string_view answer,
                      std::span<const std::string> classes) {
  std::vector<std::string_view> found;
  for (const std::string& name : classes)
    if (prediction.find(name) != std::string_view::npos) found.push_back(name);
  for (std::size_t i = 0; i < found.size(); ++i) {
    const std::string_view name = found[i];
    if (name != answer && answer.find(name) != std::string_view::npos)
      found.erase(std::ranges::find(found, name));
  }
  const bool is_found = std::ranges::find(found, answer) != found.end();
  return is_found ? 1 / static_cast<double>(found.size()) : 0;
}

/// The first line that looks like code.
std::string_view first_code_line(std::string_view text) {
  text.remove_prefix(std::min(text.find_first_not_of('\n'), text.size()));
  while (true) {
    const std::string_view line = text.substr(0, text.find('\n'));
    if (line.find_first_of("`#") == line.npos && line.find("//") == line.npos) return line;
    if (line.size() == text.size()) return {};
    text.remove_prefix(line.size() + 1);
  }
}

/// The ratio of fuzzywuzzy 0.18 without python-Levenshtein: difflib's, in whole hundredths, halves
/// to the even one.
double code_similarity(std::string_view prediction, std::string_view answer) {
  const auto given = to_code_points(first_code_line(prediction));
  const auto right = to_code_points(answer);
  if (given == right) return 1;
  if (given.empty() || right.empty()) return 0;
  return std::nearbyint(100 * sequence_ratio(given, right)) / 100;
}

bool holds(std::u32string_view text, std::u32string_view part) {
  return text.find(part) != text.npos;
}

double share_found(std::string_view prediction, std::span<const std::string> answers) {
  const std::u32string given = lower(prediction);
  const auto num_found = std::ranges::count_if(
      answers, [&](const std::string& answer) { return holds(given, lower(answer)); });
  return static_cast<double>(num_found) / static_cast<double>(answers.size());
}

double score_one(Metric metric, std::string_view prediction, const std::string& answer,
                 std::span<const std::string> classes) {
  switch (metric) {
    case Metric::qa_f1:
      return f1_of(normal_words(prediction), normal_words(answer));
    case Metric::qa_f1_zh:
      return f1_of(normal_chars(prediction), normal_chars(answer));
    case Metric::rouge_l:
      return rouge_l(to_code_points(prediction), to_code_points(answer));
    case Metric::rouge_l_zh:
      return rouge_l(spaced_chars(prediction), spaced_chars(answer));
    case Metric::classification:
      return classification(prediction, answer, classes);
    case Metric::retrieval:
      return retrieval(to_code_points(prediction), to_code_points(answer), U"Paragraph ");
    case Metric::retrieval_zh:
      return retrieval(to_code_points(prediction), to_code_points(answer), U"段落");
    case Metric::count:
      return share_equal(numbers_in(to_code_points(prediction)), to_code_points(answer));
    case Metric::code_similarity:
      return code_similarity(prediction, answer);
    case Metric::subspan_match: {
      const std::string right = normalize_answer(answer);
      return normalize_answer(prediction).find(right) != std::string::npos ? 1 : 0;
    }
    case Metric::last_number: {
      const auto numbers = numbers_in(to_code_points(prediction));
      return !numbers.empty() && numbers.back() == to_code_points(answer) ? 1 : 0;
    }
    case Metric::found:
      return share_found(prediction, {&answer, 1});
  }
  core::internal_error("metric {}: has no rule", static_cast<int>(metric));
}

}  // namespace

std::string_view metric_name(Metric metric) {
  for (const auto& [known, name] : metric_names)
    if (known == metric) return name;
  core::internal_error("metric {}: has no name", static_cast<int>(metric));
}

Metric metric_by_name(std::string_view name, std::string_view where) {
  std::vector<std::string_view> names;
  for (const auto& [metric, known] : metric_names) {
    if (known == name) return metric;
    names.push_back(known);
  }
  core::input_error("{}: there is no metric '{}': use one of {}", where, core::printable(name),
                    fmt::join(names, ", "));
}

double score(Metric metric, std::string_view prediction, std::span<const std::string> answers,
             std::span<const std::string> classes) {
  if (metric == Metric::found) return share_found(prediction, answers);
  double best = 0;
  for (const std::string& answer : answers)
    best = std::max(best, score_one(metric, prediction, answer, classes));
  return best;
}

std::string normalize_answer(std::string_view text) { return join(normal_words(text)); }

QaScores score_qa(std::string_view prediction, std::span<const std::string> answers) {
  const auto given_words = normal_words(prediction);
  const std::string given = join(given_words);
  const std::string padded = " " + given + " ";
  QaScores best;
  for (const std::string& answer : answers) {
    const auto right_words = normal_words(answer);
    const std::string right = join(right_words);
    const bool is_equal = given == right;
    best.exact_match = std::max(best.exact_match, is_equal ? 1.0 : 0.0);
    const bool are_empty = given.empty() && right.empty();
    best.f1 = std::max(best.f1, are_empty ? 1.0 : f1_of(given_words, right_words));
    const bool contains = padded.find(" " + right + " ") != std::string::npos;
    best.contains = std::max(best.contains, contains ? 1.0 : 0.0);
  }
  return best;
}

}  // namespace gsa::eval
