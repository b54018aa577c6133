#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace gsa::eval {

/// How an answer is compared with a right one. Every metric is from 0 to 1. The first nine are
/// those of LongBench v1 (Bai et al. 2023, `metrics.py`), with its numbers; Chinese is cut into
/// characters where LongBench cuts it into words with jieba.
enum class Metric {
  qa_f1,            ///< F1 of words as multisets, both normalised as SQuAD does
  qa_f1_zh,         ///< F1 of characters without punctuation
  rouge_l,          ///< F of ROUGE-L as the package `rouge` 1.0.1 computes it
  rouge_l_zh,       ///< the same with every character a word
  classification,   ///< 1 / (classes named), if the right one is among them
  retrieval,        ///< share of the numbers written that are the paragraph's ("Paragraph 3")
  retrieval_zh,     ///< the same for an answer of the form 段落3
  count,            ///< share of the numbers written that are the answer
  code_similarity,  ///< edit ratio of the first line that holds no comment, in hundredths
  subspan_match,    ///< the right answer stands in the one given, both normalised (Liu et al. 2023)
  last_number,      ///< the last number written is the answer (LongEval, Li et al. 2023)
  found,            ///< share of all right answers that stand in the one given, whatever the case
};

/// "qa_f1", "rouge_l", ...: the enumerator's name.
std::string_view metric_name(Metric metric);
/// The metric of a name; input error that lists all names otherwise. `where` begins the message.
Metric metric_by_name(std::string_view name, std::string_view where);

/// The best score over the right answers (at least one); `found` looks at all of them together.
/// `classes` are the names that `classification` knows.
double score(Metric metric, std::string_view prediction, std::span<const std::string> answers,
             std::span<const std::string> classes = {});

/// An answer as SQuAD's scorer compares it (Rajpurkar et al. 2016): in lower case, without ASCII
/// punctuation and the words a, an, the, words separated by single spaces.
std::string normalize_answer(std::string_view text);

/// Scores of one prediction, each the best over the right answers, from 0 to 1.
struct QaScores {
  double exact_match = 0;
  double f1 = 0;        ///< of words as multisets
  double contains = 0;  ///< the answer's words stand in the prediction, in order and side by side
};
QaScores score_qa(std::string_view prediction, std::span<const std::string> answers);

}  // namespace gsa::eval
