#include "eval/task_format.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/file.h"
#include "core/json.h"
#include "core/text_file.h"
#include "core/utf8.h"

namespace gsa::eval {
namespace {

using core::input_error;
using nlohmann::json;

constexpr std::string_view input_mark = "{input}";
constexpr std::int64_t max_answer_len = 65536;

struct Field {
  std::string_view name, help;
};

constexpr auto fields = std::to_array<Field>({
    {"before", "text in front of the documents (default: none)"},
    {"after", "text behind them; {input} stands once for the record's question"},
    {"metric", "how answers are scored: a metric of the table above (qa_f1), last_number or found"},
    {"max_tokens", "longest answer in tokens (32)"},
    {"chat", "false: the text as it is, without the model's chat template (true)"},
    {"first_line", "whether only the first line of an answer counts (true)"},
    {"language", "for display (en)"},
    {"like", "a format of the table above, which gives the defaults"},
});

void check_fields(const json& object, const std::string& where) {
  if (!object.is_object())
    input_error("task: {}: is a JSON {}, not an object", where, object.type_name());
  for (const auto& [key, value] : object.items()) {
    if (std::ranges::find(fields, key, &Field::name) != fields.end()) continue;
    std::vector<std::string_view> names;
    for (const Field& field : fields) names.push_back(field.name);
    input_error("task: {}: has no use for the field '{}': use {}", where, core::printable(key),
                fmt::join(names, ", "));
  }
}

/// The defaults of a description: those of the format that it names.
TaskFormat base_format(const json& object, const std::string& where) {
  const auto name = core::find_string(object, "like", where);
  if (!name) return {};
  if (auto format = find_format(*name)) return *std::move(format);
  input_error("task: {}: 'like' names the format '{}', which is none of {}", where,
              core::printable(*name), fmt::join(format_names(), ", "));
}

/// The text behind the documents with its mark, as a description writes it.
std::string after_text(const TaskFormat& format) {
  if (!format.prompt) return "\n\n{input}";
  const std::string_view mark = format.uses_input ? input_mark : "";
  return format.prompt->before_question + std::string(mark) + format.prompt->after_question;
}

void read_prompt(const json& object, const std::string& where, TaskFormat& format) {
  const auto before = core::find_string(object, "before", where);
  const auto after = core::find_string(object, "after", where);
  const auto chat = core::find_bool(object, "chat", where);
  if (!before && !after && !chat) return;
  const bool uses_chat = chat.value_or(!format.prompt || format.prompt->use_chat_template);
  const std::string default_before = format.prompt ? format.prompt->before : "";
  const std::string behind = after.value_or(after_text(format));
  format.prompt = make_prompt(before.value_or(default_before), behind, where);
  format.prompt->use_chat_template = uses_chat;
  if (core::trimmed(behind).empty())
    input_error("task: {}: 'after' says nothing: write what is asked, with {{input}}", where);
  if (format.prompt->before.find(input_mark) != std::string::npos)
    input_error("task: {}: {{input}} stands in 'before': write it in 'after'", where);
  const bool has_mark = behind.find(input_mark) != std::string::npos;
  if (!has_mark && format.uses_input) {
    input_error(
        "task: {}: 'after' has no {{input}}, where the question goes: write it there (tasks "
        "without questions are 'like' one of them, such as gov_report)",
        where);
  }
  format.uses_input = has_mark;
}

}  // namespace

engine::PromptFormat make_prompt(std::string_view before, std::string_view after,
                                 std::string_view where) {
  engine::PromptFormat prompt{std::string(before), std::string(after), ""};
  const std::size_t at = after.find(input_mark);
  if (at == std::string_view::npos) return prompt;
  prompt.before_question = after.substr(0, at);
  prompt.after_question = after.substr(at + input_mark.size());
  if (prompt.after_question.find(input_mark) != std::string::npos)
    input_error("task: {}: {{input}} stands twice behind the documents: write it once", where);
  return prompt;
}

TaskFormat read_format(const std::filesystem::path& path) {
  const std::string where = path.string();
  const json object = core::parse_json(core::read_file(path), where, core::DuplicateKeys::refuse);
  check_fields(object, where);
  TaskFormat format = base_format(object, where);
  format.name = path.filename().string();
  read_prompt(object, where, format);
  if (const auto metric = core::find_string(object, "metric", where))
    format.metric = metric_by_name(*metric, "task: " + where + ": 'metric'");
  format.max_tokens = core::find_int(object, "max_tokens", where).value_or(format.max_tokens);
  if (format.max_tokens < 1 || format.max_tokens > max_answer_len) {
    input_error("task: {}: 'max_tokens' is {}: give 1 to {}", where, format.max_tokens,
                max_answer_len);
  }
  format.first_line = core::find_bool(object, "first_line", where).value_or(format.first_line);
  format.language = core::find_string(object, "language", where).value_or(format.language);
  return format;
}

std::string description_help() {
  std::string text =
      "A format of your own for NAME.jsonl: NAME.task.json beside it, an object with any of\n";
  for (const Field& field : fields) text += fmt::format("  {:<11} {}\n", field.name, field.help);
  return text +
         R"(  for example {"before": "Report:\n", "after": "\n\nQ: {input}\nA:", "max_tokens": 16})" +
         "\nWithout before and after the documents and the question follow each other.\n";
}

std::string shown_document(const TaskFormat& format, std::string_view document,
                           std::size_t number) {
  if (!format.numbers_documents || document.empty()) return std::string(document);
  const std::size_t end = document.find('\n');
  if (end == std::string_view::npos) return fmt::format("Document [{}] {}", number, document);
  return fmt::format("Document [{}](Title: {}) {}", number, document.substr(0, end),
                     document.substr(end + 1));
}

std::string scored_part(const TaskFormat& format, std::string_view answer) {
  if (!format.first_line) return std::string(answer);
  answer.remove_prefix(std::min(answer.find_first_not_of('\n'), answer.size()));
  return std::string(core::trimmed(answer.substr(0, answer.find('\n'))));
}

}  // namespace gsa::eval
