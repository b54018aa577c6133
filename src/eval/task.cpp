#include "eval/task.h"

#include <cstdint>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>

#include "core/error.h"
#include "core/json.h"
#include "core/text_file.h"
#include "core/utf8.h"

namespace gsa::eval {
namespace {

using core::input_error;
using nlohmann::json;

/// A list of strings, or one string; nothing if the field is absent.
std::vector<std::string> read_strings(const json& record, const char* list_name,
                                      const char* single_name, const std::string& where) {
  std::vector<std::string> strings;
  const auto list = record.find(list_name);
  if (list == record.end() || list->is_null()) {
    if (auto single = core::find_string(record, single_name, where))
      strings.push_back(std::move(*single));
    return strings;
  }
  if (!list->is_array()) {
    input_error("task: {}: '{}' is a JSON {}, not a list of strings", where, list_name,
                list->type_name());
  }
  for (const json& entry : *list) {
    if (!entry.is_string()) {
      input_error("task: {}: '{}' holds a JSON {}, not only strings", where, list_name,
                  entry.type_name());
    }
    strings.push_back(entry.get<std::string>());
  }
  return strings;
}

TaskItem read_item(const json& record, std::int64_t number, const std::string& where) {
  TaskItem item;
  item.id = core::find_string(record, "_id", where).value_or(std::to_string(number));
  item.question = core::find_string(record, "input", where).value_or("");
  if (item.question.empty()) input_error("task: {}: has no question in its field 'input'", where);
  item.documents = read_strings(record, "documents", "context", where);
  if (item.documents.empty()) input_error("task: {}: has neither 'documents' nor 'context'", where);
  item.answers = read_strings(record, "answers", "answer", where);
  if (item.answers.empty()) input_error("task: {}: has no 'answers'", where);
  return item;
}

std::string name_of(const std::filesystem::path& path) {
  const std::string name = path.filename().string();
  return name.substr(0, name.find('.'));
}

}  // namespace

Task read_task(const std::filesystem::path& path) {
  const auto file = core::TextFile::open(path);
  core::RecordReader reader(file);
  Task task{name_of(path), {}};
  std::set<std::string> ids;
  for (json record; reader.next(record);) {
    TaskItem item = read_item(record, reader.line_number(), reader.where());
    if (!ids.insert(item.id).second) {
      input_error("task: {}: another record has the _id '{}' too", reader.where(),
                  core::printable(item.id));
    }
    task.items.push_back(std::move(item));
  }
  if (task.items.empty()) input_error("task: {}: it holds no records", path.string());
  return task;
}

}  // namespace gsa::eval
