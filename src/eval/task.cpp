#include "eval/task.h"

#include <algorithm>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>

#include "core/json.h"
#include "core/text_file.h"
#include "core/utf8.h"
#include "text/sha256.h"

namespace gsa::eval {
namespace {

using core::input_error;
using nlohmann::json;

/// A field that has two names.
std::optional<std::string> find_string_of(const json& record, const char* name, const char* other,
                                          const std::string& where) {
  auto found = core::find_string(record, name, where);
  return found ? found : core::find_string(record, other, where);
}

/// A record's name: a text or a whole number.
std::optional<std::string> find_id(const json& record, const std::string& where) {
  for (const char* name : {"_id", "id"}) {
    const auto field = record.find(name);
    if (field != record.end() && field->is_number_integer()) return field->dump();
    if (auto found = core::find_string(record, name, where)) return found;
  }
  return std::nullopt;
}

/// A list of strings; nothing if the field is absent.
std::vector<std::string> read_list(const json& record, const char* name, const std::string& where) {
  std::vector<std::string> strings;
  const auto list = record.find(name);
  if (list == record.end() || list->is_null()) return strings;
  if (!list->is_array())
    input_error("task: {}: '{}' is a JSON {}, not a list of strings", where, name,
                list->type_name());
  for (const json& entry : *list) {
    if (!entry.is_string())
      input_error("task: {}: '{}' holds a JSON {}, not only strings", where, name,
                  entry.type_name());
    strings.push_back(entry.get<std::string>());
  }
  return strings;
}

/// A document with its title in front of it, if it has one.
std::string read_document(const json& entry, const std::string& where) {
  if (entry.is_string()) return entry.get<std::string>();
  if (!entry.is_object())
    input_error("task: {}: 'documents' holds a JSON {}, not only strings or {{title, text}}", where,
                entry.type_name());
  const auto text = core::find_string(entry, "text", where);
  if (!text) input_error("task: {}: a document has no field 'text'", where);
  const std::string title = core::find_string(entry, "title", where).value_or("");
  return title.empty() || text->empty() ? *text : title + "\n" + *text;
}

std::vector<std::string> read_documents(const json& record, const TaskFormat& format,
                                        const std::string& where) {
  std::vector<std::string> documents;
  const auto list = record.find("documents");
  if (list == record.end() || list->is_null()) {
    if (auto context = core::find_string(record, "context", where))
      documents.push_back(*std::move(context));
  } else if (list->is_array()) {
    for (const json& entry : *list)
      documents.push_back(
          shown_document(format, read_document(entry, where), documents.size() + 1));
  } else {
    input_error("task: {}: 'documents' is a JSON {}, not a list", where, list->type_name());
  }
  if (documents.empty()) input_error("task: {}: has neither 'documents' nor 'context'", where);
  for (std::size_t i = 0; i < documents.size(); ++i) {
    if (documents[i].empty()) input_error("task: {}: document {} is empty", where, i + 1);
  }
  return documents;
}

std::vector<std::string> read_answers(const json& record, const std::string& where) {
  std::vector<std::string> answers = read_list(record, "answers", where);
  if (answers.empty() && !record.contains("answers")) {
    if (auto answer = core::find_string(record, "answer", where))
      answers.push_back(*std::move(answer));
  }
  if (answers.empty()) input_error("task: {}: has no 'answers'", where);
  for (const std::string& answer : answers) {
    if (core::trimmed(answer).empty())
      input_error("task: {}: an answer is empty: leave it out", where);
  }
  return answers;
}

std::string read_question(const json& record, const TaskFormat& format, const std::string& where) {
  if (!format.uses_input) return "";
  const auto question = find_string_of(record, "input", "question", where);
  if (!question) input_error("task: {}: has no question in its field 'input'", where);
  std::string shown = *question;
  if (format.prompt) shown += format.prompt->before_question + format.prompt->after_question;
  if (core::trimmed(shown).empty())
    input_error("task: {}: has no question in its field 'input'", where);
  return *question;
}

/// What the task's metric needs of a record.
void check_for_metric(const TaskItem& item, Metric metric, const std::string& where) {
  if (metric == Metric::classification && item.classes.empty())
    input_error("task: {}: has no 'all_classes', which a classification needs", where);
  if (metric == Metric::subspan_match) {
    for (const std::string& answer : item.answers) {
      if (normalize_answer(answer).empty()) {
        input_error("task: {}: the answer '{}' would stand in every text: leave it out", where,
                    core::printable(answer));
      }
    }
  }
  if (metric != Metric::retrieval && metric != Metric::retrieval_zh) return;
  for (const std::string& answer : item.answers) {
    if (score(metric, answer, {&answer, 1}) == 0) {
      input_error("task: {}: the answer '{}' names no paragraph as '{}' does", where,
                  core::printable(answer), metric == Metric::retrieval ? "Paragraph 3" : "段落3");
    }
  }
}

TaskItem read_item(const json& record, const TaskFormat& format, std::int64_t number,
                   const std::string& where) {
  TaskItem item;
  item.id = find_id(record, where).value_or(std::to_string(number));
  item.question = read_question(record, format, where);
  item.documents = read_documents(record, format, where);
  item.answers = read_answers(record, where);
  item.classes = read_list(record, "all_classes", where);
  item.length = core::find_int(record, "length", where).value_or(0);
  check_for_metric(item, format.metric, where);
  return item;
}

std::string name_of(const std::filesystem::path& path) {
  const std::string name = path.filename().string();
  return name.substr(0, name.find('.'));
}

/// The catalogue's format of a name; the files of LongBench-E end in "_e".
std::optional<TaskFormat> find_format_of(std::string_view name) {
  if (auto format = find_format(name)) return format;
  return name.ends_with("_e") ? find_format(name.substr(0, name.size() - 2)) : std::nullopt;
}

/// Reads the records of a file. The format is settled by the first one that is whole.
class Reader {
 public:
  Reader(const std::filesystem::path& path, const ReadTaskOptions& options)
      : path_(path), options_(options), format_(options.format) {
    const std::filesystem::path description = description_path(path);
    if (!format_ && std::filesystem::exists(description)) format_ = read_format(description);
  }

  Task read() {
    const auto file = core::TextFile::open(path_);
    core::RecordReader records(file);
    while (records.advance()) {
      if (!options_.on_bad_line) {
        add(records);
        continue;
      }
      try {
        add(records);
      } catch (const Error& error) {
        if (error.kind() != ErrorKind::input) throw;
        options_.on_bad_line(error);
      }
    }
    if (items_.empty()) input_error("task: {}: it holds no records", path_.string());
    return {name_of(path_), *format_, std::move(items_)};
  }

 private:
  void add(const core::RecordReader& records) {
    const std::string where = records.where();
    const json record = records.parse();
    const auto dataset = core::find_string(record, "dataset", where);
    if (!format_) settle(dataset);
    check_dataset(dataset, where);
    TaskItem item = read_item(record, *format_, records.line_number(), where);
    if (!ids_.insert(item.id).second) {
      input_error("task: {}: another record has the _id '{}' too", where, core::printable(item.id));
    }
    items_.push_back(std::move(item));
  }

  void settle(const std::optional<std::string>& dataset) {
    format_ = dataset ? find_format_of(*dataset) : std::nullopt;
    if (!format_) format_ = find_format_of(name_of(path_));
    if (!format_) format_ = TaskFormat();
  }

  void check_dataset(const std::optional<std::string>& dataset, const std::string& where) {
    if (!dataset) return;
    if (!dataset_) dataset_ = dataset;
    if (dataset_ != dataset) {
      input_error(
          "task: {}: is of the dataset '{}', records before it of '{}': give them a file "
          "each",
          where, core::printable(*dataset), core::printable(*dataset_));
    }
  }

  std::filesystem::path path_;
  const ReadTaskOptions& options_;
  std::optional<TaskFormat> format_;
  std::optional<std::string> dataset_;
  std::set<std::string> ids_;
  std::vector<TaskItem> items_;
};

}  // namespace

std::string digest_of(const TaskItem& item) {
  text::Sha256 digest;
  const auto add = [&](std::string_view text) {
    digest.update(fmt::format("{}:", text.size()));  // so that no text goes over into the next
    digest.update(text);
  };
  for (const auto* texts : {&item.documents, &item.answers, &item.classes}) {
    digest.update(fmt::format("{};", texts->size()));
    for (const std::string& text : *texts) add(text);
  }
  add(item.question);
  digest.update(fmt::format("{} {}", item.length, item.depth.value_or(-1)));
  return digest.finish().substr(0, 16);
}

std::filesystem::path description_path(const std::filesystem::path& path) {
  return path.parent_path() / (name_of(path) + ".task.json");
}

Task read_task(const std::filesystem::path& path, const ReadTaskOptions& options) {
  return Reader(path, options).read();
}

}  // namespace gsa::eval
