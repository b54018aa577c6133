#include "train/qa_record.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/json.h"
#include "core/text_file.h"
#include "core/utf8.h"

namespace gsa::train {
namespace {

using core::input_error;
using core::trimmed;
using nlohmann::json;

/// The first of several names that the record has; nullptr if none.
const json* find_field(const json& record, std::initializer_list<const char*> names) {
  for (const char* name : names) {
    const auto field = record.find(name);
    if (field != record.end() && !field->is_null()) return &*field;
  }
  return nullptr;
}

[[noreturn]] void lacks(const json& record, std::string_view field, const std::string& where) {
  std::vector<std::string> names;
  for (const auto& [name, value] : record.items()) names.push_back(core::printable(name));
  input_error("data: {}: has no field {}; it has {}, expected are question, answers and passages",
              where, field, names.empty() ? "none" : fmt::format("{}", fmt::join(names, ", ")));
}

/// A passage as it will stand in a context; empty if it has no text.
std::string read_passage(const json& passage, const std::string& where) {
  if (passage.is_string()) return std::string(trimmed(passage.get<std::string>()));
  if (!passage.is_object())
    input_error("data: {}: a passage is a JSON {}, not a string or {{title, text}}", where,
                passage.type_name());
  const auto text = core::find_string(passage, "text", where);
  if (!text) input_error("data: {}: a passage has no field 'text'", where);
  const std::string body(trimmed(*text));
  const auto title = core::find_string(passage, "title", where);
  if (!title || trimmed(*title).empty() || body.empty()) return body;
  return std::string(trimmed(*title)).append("\n").append(body);
}

std::vector<std::string> read_passages(const json& field, const std::string& where) {
  std::vector<std::string> passages;
  if (field.is_string()) {
    passages.push_back(read_passage(field, where));
  } else if (field.is_array()) {
    for (const json& passage : field) passages.push_back(read_passage(passage, where));
  } else {
    input_error("data: {}: passages are a JSON {}, not a list", where, field.type_name());
  }
  std::erase_if(passages, [](const std::string& passage) { return passage.empty(); });
  return passages;
}

std::vector<std::string> read_answers(const json& field, const std::string& where) {
  if (field.is_object() && field.contains("text")) return read_answers(field["text"], where);
  std::vector<std::string> answers;
  const json list = field.is_string() ? json::array({field}) : field;
  if (!list.is_array())
    input_error("data: {}: answers are a JSON {}, not a string or a list", where,
                field.type_name());
  for (const json& answer : list) {
    if (!answer.is_string())
      input_error("data: {}: an answer is a JSON {}, not a string", where, answer.type_name());
    const std::string text(trimmed(answer.get_ref<const std::string&>()));
    if (!text.empty()) answers.push_back(text);
  }
  return answers;
}

}  // namespace

std::string_view QaRecord::best_answer() const {
  if (answers.empty()) return {};
  for (const std::string& answer : answers) {
    const bool is_there = std::ranges::any_of(passages, [&](const std::string& passage) {
      return passage.find(answer) != std::string::npos;
    });
    if (is_there) return answer;
  }
  return answers.front();
}

QaRecord read_qa_record(const json& record, const std::string& where) {
  QaRecord result;
  auto question = core::find_string(record, "question", where);
  if (!question) question = core::find_string(record, "input", where);
  if (!question) lacks(record, "'question' (nor 'input')", where);
  result.question = trimmed(*question);
  const json* passages = find_field(record, {"passages", "documents", "context"});
  if (passages == nullptr) lacks(record, "'passages' (nor 'documents' nor 'context')", where);
  result.passages = read_passages(*passages, where);
  const json* answers = find_field(record, {"answers", "answer"});
  if (answers == nullptr) lacks(record, "'answers' (nor 'answer')", where);
  result.answers = read_answers(*answers, where);
  if (const json* distractors = find_field(record, {"distractors"})) {
    if (!distractors->is_array())
      input_error("data: {}: distractors are a JSON {}, not a list", where,
                  distractors->type_name());
    result.distractors = read_passages(*distractors, where);
  }
  return result;
}

}  // namespace gsa::train
