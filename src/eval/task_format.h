#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "engine/session.h"
#include "eval/metrics.h"

namespace gsa::eval {

/// How the items of a task are asked and scored.
struct TaskFormat {
  std::string name;  ///< in the catalogue, or the description's file; empty: the default
  /// What stands around the documents; unset: the session's own (documents, blank line, question).
  std::optional<engine::PromptFormat> prompt;
  Metric metric = Metric::qa_f1;
  std::int64_t max_tokens = 32;  ///< of an answer
  /// Only the first line of an answer counts, blank lines before it left out.
  bool first_line = true;
  bool uses_input = true;          ///< false: what to do is said around the documents
  bool numbers_documents = false;  ///< shows documents as search results: see `shown_document`
  std::string language = "en";     ///< "en", "zh" or "code"; for display
};

/// The prompt of a published template: its text in front of the documents, and that behind them, in
/// which `{input}` stands for the question. Input error, begun with `where`, if it stands there
/// more than once.
engine::PromptFormat make_prompt(std::string_view before, std::string_view after,
                                 std::string_view where);

/// A format of the catalogue. Nothing if there is none of that name.
///   narrativeqa, qasper, ...  the 21 tasks of LongBench v1 (Bai et al. 2023): prompt, length,
///   metric
///                             and use of the chat template as published (`config/`, `pred.py`,
///                             `eval.py`). Of trec, triviaqa, samsum and lsht the first line
///                             counts, as published, and here also of the short answers of
///                             narrativeqa, qasper, multifieldqa, hotpotqa, 2wikimqa and musique.
///   nq, triviaqa_open         questions to passages that were retrieved (Liu et al. 2023): prompt
///                             (blank lines between passages where it has line breaks), answer
///                             contained, 100 tokens
std::optional<TaskFormat> find_format(std::string_view name);
/// All names of the catalogue in the order of LongBench's table.
std::vector<std::string> format_names();

/// Reads the description of a task from a JSON file:
///   before      text in front of the documents                     (default: empty)
///   after       text behind them; `{input}` stands once for the record's question, unless `like`
///               is a format without one
///   metric      one of `metric_name`                               (default: qa_f1)
///   max_tokens  longest answer, from 1 to 65536                    (default: 32)
///   chat        false: the text as it is, no chat template         (default: true)
///   first_line  only the first line of an answer counts            (default: true)
///   language    for display                                        (default: en)
///   like        name of a catalogue format that gives the defaults
/// All are optional; without `before` and `after` the prompt is the session's own. Input error that
/// names the file and the field for an unknown field, a wrong type or value.
TaskFormat read_format(const std::filesystem::path& path);

/// The fields of a description in one line each, for users.
std::string description_help();

/// A document of a list, counted from 1, as a format shows it: as it is, or numbered as Liu et al.
/// 2023 show passages, "Document [1](Title: T) text", where the first of several lines is the
/// title. Empty if it is.
std::string shown_document(const TaskFormat& format, std::string_view document, std::size_t number);

/// An answer as it is scored: its first line where the format says so.
std::string scored_part(const TaskFormat& format, std::string_view answer);

}  // namespace gsa::eval
