#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "engine/compare.h"
#include "eval/metrics.h"
#include "eval/task.h"

namespace gsa::eval {

/// A policy's answer to one item of a task.
struct Record {
  std::string task;
  std::string item_id;
  engine::ResultRow row;
  std::string prediction;  ///< the first line of the answer, which is what is scored
  QaScores scores;
};

struct RunOptions {
  engine::SessionOptions session;
  engine::GenerateOptions generate;
  /// Items that are read and answered at the same time, each by a thread of its own (on a GPU: with
  /// a stream of its own).
  int num_workers = 1;
  /// Every finished record is a line of this file, so that a run that was cut off goes on where it
  /// stopped; empty: none. Input error if the file is of another run. A record is found again by
  /// task, item, question and policy.
  std::filesystem::path records_file;
  std::string run_name;  ///< what answers depend on besides item and policy: models, prompts, ...
  /// Called with the number of items that are done, one call at a time.
  std::function<void(std::int64_t done, std::int64_t total)> on_item;
};

/// Lets every policy answer every item. An item's documents are read once for all policies that
/// read them alike. The records are in the order of tasks, items and policies; if the run was
/// cancelled (`generate.cancel`), those that were finished. What goes wrong in an item is thrown
/// once the others under way have ended.
std::vector<Record> run_tasks(std::span<const Task> tasks,
                              std::span<const engine::PolicyRun> policies,
                              const RunOptions& options);

}  // namespace gsa::eval
