#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "core/error.h"
#include "eval/task_format.h"

namespace gsa::text {
class Tokenizer;
}

namespace gsa::eval {

/// One question with its documents and right answers.
struct TaskItem {
  std::string id;  ///< unique in its task
  std::vector<std::string> documents;
  std::string question;
  std::vector<std::string> answers;
  std::vector<std::string> classes = {};  ///< what an answer of a classification may be
  std::int64_t length = 0;                ///< as stated; of generated items in tokens; 0: unknown
  std::optional<double> depth = {};  ///< of the answer of a generated item, 0 (begin) to 1 (end)
  std::string digest = {};           ///< `digest_of` it, by which its answers are found again
};

/// 16 hexadecimal digits that depend on everything an item says but for its name.
std::string digest_of(const TaskItem& item);

struct Task {
  std::string name;  ///< the file's name up to its first dot
  TaskFormat format;
  std::vector<TaskItem> items;
};

struct ReadTaskOptions {
  /// Unset: the description beside the file (`description_path`) if there is one, otherwise the
  /// catalogue's format by the first record's `dataset` or by the file's name, otherwise the
  /// default: the session's own prompt, `qa_f1` of the first line, 32 tokens.
  std::optional<TaskFormat> format;
  /// Called with the error of a line that is no item (it names file and line); the line is then
  /// left out. Unset: the error is thrown.
  std::function<void(const Error& error)> on_bad_line;
};

/// Where the description of a task's file is looked for: NAME.task.json beside it.
std::filesystem::path description_path(const std::filesystem::path& path);

/// Reads a task as JSON Lines, perhaps packed (gzip, xz, zstd), in the schema of LongBench:
///   input        the question (or question); may be empty where the format says what to do
///   documents    list of texts, each a piece of its own, or of {"title", "text"}; or context: one
///   answers      list of strings (or answer: one), none of them blank
///   _id          optional (or id), a text or a whole number; the line's number otherwise
///   all_classes  list of strings; classifications need it
///   length       optional
///   dataset      optional, the same in all records
/// Input error that names file and line for anything else, and if no item is left.
Task read_task(const std::filesystem::path& path, const ReadTaskOptions& options = {});

/// Shortens an item whose prompt (format and documents, no chat template) has more than
/// `max_tokens` tokens: the first and the last `max_tokens / 2` tokens stay, as LongBench v1 does
/// it, but in whole characters. Where that would cut into the format's text or the question, these
/// stay whole and both ends of the documents share what they leave. Returns whether the prompt was
/// too long. Input error if they leave nothing.
bool truncate_middle(TaskItem& item, const TaskFormat& format, const text::Tokenizer& tokenizer,
                     std::int64_t max_tokens);

}  // namespace gsa::eval
