#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "eval/answering.h"
#include "eval/entrant.h"
#include "eval/record.h"
#include "eval/task.h"

namespace gsa::eval {

/// Several processes share a run's items: item i is that of process i modulo `size`.
struct Share {
  int rank = 0;
  int size = 1;
};

enum class OnFailure {
  stop,  ///< what goes wrong with an item is thrown, with the item's name
  skip,  ///< the item is left out and listed in the result
};

struct RunOptions {
  AnswerOptions answer;
  /// Blocks of items that are read and answered at the same time, each by a thread of its own (on a
  /// GPU: with a stream of its own).
  int num_workers = 1;
  /// Items of a block, which are answered in one forward per token. Above 1 the items of a task go
  /// from long to short.
  std::int64_t batch_size = 1;
  OnFailure on_failure = OnFailure::stop;
  /// Every finished record is a line of this file, so that a run that was cut off goes on where it
  /// stopped; empty: none. Of several processes each writes FILE.rankN. Input error if the file is
  /// of another run. See `RecordsFile::find` for what is not answered again.
  std::filesystem::path records_file;
  std::string run_name;  ///< what answers depend on besides item and policy: models, prompts, ...
  Share share;
  /// Called with the number of items that are done, one call at a time.
  std::function<void(std::int64_t done, std::int64_t total)> on_item;
  /// Called once if `collect` waits so long and no other process finishes an item.
  std::function<void(std::int64_t missing, std::int64_t total)> on_wait;
  std::chrono::milliseconds wait_until_told = std::chrono::seconds(10);
};

/// How far a task is.
struct Finished {
  std::string task;
  std::int64_t num_items = 0;  ///< answered by all, or failed
  std::int64_t num_total = 0;
};

struct RunResult {
  std::vector<Record> records;  ///< in the order of tasks, items and entrants
  std::vector<Failure> failures;
  std::vector<Finished> finished = {};  ///< per task; only of `collect` and `finished_items`
};

/// Input error that names the item if one of the longest that must not be cut does not fit.
void check_lengths(std::span<const Task> tasks, std::span<const Entrant> entrants,
                   const AnswerOptions& options);

/// Lets every entrant answer every item of this process's share. An item's documents are read once
/// for all policies that read them alike. If the run was cancelled (`generate.cancel`), the records
/// are those that were finished. What goes wrong in an item is thrown once the others under way
/// have ended, or listed (`on_failure`); unless it is to be listed, `check_lengths` comes first. A
/// single process that finishes all makes one file of those that others left.
RunResult run_tasks(std::span<const Task> tasks, std::span<const Entrant> entrants,
                    const RunOptions& options);

/// Waits until all processes have written their items to the records file, and makes it one file.
/// For process 0 of several, when its own share is done. Resource error if nothing is written for
/// half an hour: another process was lost; a single process started again does what is missing.
RunResult collect(std::span<const Task> tasks, std::span<const Entrant> entrants,
                  const RunOptions& options);

/// What the records file holds by now, of whichever processes, while nothing is answered: items
/// that some entrant has yet to answer are left out.
RunResult finished_items(std::span<const Task> tasks, std::span<const Entrant> entrants,
                         const RunOptions& options);

}  // namespace gsa::eval
