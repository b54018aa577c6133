#include "eval/task_list.h"

#include <filesystem>

#include "core/error.h"
#include "core/utf8.h"
#include "eval/generate.h"

namespace gsa::eval {
namespace {

/// Whether a part of a list is a value of the part before it: a number, perhaps with options
/// behind it.
bool continues(std::string_view part) {
  std::string_view head = part.substr(0, part.find(':'));
  if (!head.empty() && (head.back() == 'k' || head.back() == 'K' || head.back() == '%'))
    head.remove_suffix(1);
  return !head.empty() && head.find_first_not_of("0123456789") == std::string_view::npos;
}

/// FORMAT=FILE or FILE.
struct FileSpec {
  std::optional<TaskFormat> format;
  std::filesystem::path path;
};

FileSpec parse_file(const std::string& spec) {
  const std::size_t at = spec.find('=');
  if (at != std::string::npos && !std::filesystem::exists(spec)) {
    const std::string name = spec.substr(0, at), path = spec.substr(at + 1);
    if (auto format = find_format(name)) return {std::move(format), path};
    if (std::filesystem::exists(path)) {
      core::input_error("task '{}': there is no format '{}' (see gsa eval --list)",
                        core::printable(spec), core::printable(name));
    }
  }
  if (find_format(spec) && !std::filesystem::exists(spec)) {
    core::input_error("task '{}': there is no such file: give its records as {}=FILE", spec, spec);
  }
  return {std::nullopt, spec};
}

Task make_task(const std::string& spec, const text::Tokenizer& tokenizer,
               const ReadTaskOptions& options) {
  if (is_generated(spec)) return generate_task(parse_generated(spec), tokenizer);
  FileSpec file = parse_file(spec);
  ReadTaskOptions read = options;
  if (file.format) read.format = std::move(file.format);
  return read_task(file.path, read);
}

}  // namespace

std::vector<std::string> split_task_list(std::string_view list) {
  std::vector<std::string> tasks;
  while (true) {
    const std::size_t end = list.find(',');
    const std::string_view part = list.substr(0, end);
    if (part.empty()) core::input_error("tasks: a name between two commas is empty: leave it out");
    if (!tasks.empty() && is_generated(tasks.back()) && continues(part)) {
      tasks.back().append(",").append(part);
    } else {
      tasks.emplace_back(part);
    }
    if (end == std::string_view::npos) return tasks;
    list.remove_prefix(end + 1);
  }
}

void check_task(const std::string& spec) {
  const std::filesystem::path path = is_generated(spec)
                                         ? std::filesystem::path(parse_generated(spec).haystack)
                                         : parse_file(spec).path;
  if (!path.empty() && !std::filesystem::exists(path))
    core::input_error("task '{}': {}: there is no such file", core::printable(spec), path.string());
}

Task open_task(const std::string& spec, const text::Tokenizer& tokenizer,
               const ReadTaskOptions& options) {
  Task task = make_task(spec, tokenizer, options);
  for (TaskItem& item : task.items) item.digest = digest_of(item);
  return task;
}

}  // namespace gsa::eval
