#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "eval/task.h"
#include "text/tokenizer.h"

namespace gsa::eval {

/// The tasks of a list with commas, such as
/// "qa.jsonl,needle:haystack=book.txt:lengths=1k,2k,nq=b.jsonl": a part that begins with a number
/// belongs to the task before it.
std::vector<std::string> split_task_list(std::string_view list);

/// Checks what can be checked of a task's name before a model is there: that its file exists, that
/// its format is known, that the options of a generated task are right. Input error otherwise.
void check_task(const std::string& spec);

/// A task by what the command line calls it, with digests of its items:
///   FILE                 see `read_task`
///   FORMAT=FILE          with a format of the catalogue
///   passkey, needle, kv, lines with options: see `generate.h`; lengths count this tokenizer's
///   tokens
Task open_task(const std::string& spec, const text::Tokenizer& tokenizer,
               const ReadTaskOptions& options = {});

}  // namespace gsa::eval
