#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace gsa::eval {

/// One question with its documents and right answers.
struct TaskItem {
  std::string id;  ///< unique in its task
  std::vector<std::string> documents;
  std::string question;
  std::vector<std::string> answers;
};

struct Task {
  std::string name;  ///< the file's name up to its first dot
  std::vector<TaskItem> items;
};

/// Reads a task as JSON Lines, perhaps packed (gzip, xz, zstd), in the schema of LongBench:
///   input      the question
///   documents  list of texts, each a piece of its own; or context: one text
///   answers    list of strings (or answer: one)
///   _id        optional; the line's number otherwise
/// Input error that names file and line for anything else.
Task read_task(const std::filesystem::path& path);

}  // namespace gsa::eval
