#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace gsa::train {

/// One record of question answering in the common schema, as JSON:
///   question (or input)    string
///   answer or answers      string or list of strings (or {"text": [...]}); none: unanswerable
///   passages (or documents: the same; or context: one)   list of strings or {title, text}
///   distractors            optional list like passages: texts that only look as if they answered
struct QaRecord {
  std::string question;
  std::vector<std::string> answers;
  std::vector<std::string> passages;  ///< "title\ntext", or the text alone
  std::vector<std::string> distractors;

  /// The first answer that stands in a passage, else the first one; empty if there is none.
  std::string_view best_answer() const;
};

/// Input error that begins with `where` (file:line) and names the field that is missing or of
/// another type.
QaRecord read_qa_record(const nlohmann::json& record, const std::string& where);

}  // namespace gsa::train
