#pragma once

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <map>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "core/file.h"
#include "engine/compare.h"
#include "eval/entrant.h"
#include "eval/metrics.h"
#include "eval/task.h"

namespace gsa::eval {

/// A policy's answer to one item of a task.
struct Record {
  std::string task;
  std::string item_id;
  std::string item_digest;  ///< of the item that was answered; empty: of an older file
  engine::ResultRow row;    ///< `row.policy` is the entrant's name
  std::string setting;      ///< the policy as it ran on this item
  std::string prediction;   ///< the part of the answer that is scored
  std::string metric;       ///< its name
  double score = 0;  ///< 0 to 1; of the metric perplexity the loss in nats per token, from 0 up
  QaScores secondary;
  std::int64_t length = 0;      ///< as the task states it; 0: unknown
  std::optional<double> depth;  ///< of the answer in its context, 0 to 1; unset: unknown
  bool is_truncated = false;    ///< the context was cut in the middle
};

/// An item that could not be answered, or a line that is no item.
struct Failure {
  std::string task;
  std::string item_id;  ///< empty: it has none
  std::string error;
};

/// The file of finished records: a first line that names the run, then a record or a failure per
/// line. Of several processes each has a file of its own, FILE.rank0, FILE.rank1, ...; all are
/// read, so that any number of processes may go on with what others began.
class RecordsFile {
 public:
  enum class Purpose {
    write,    ///< what was cut off at the end of this process's file is removed, and its failures
    collect,  ///< all files stay as they are until `merge`
  };

  /// Without a path nothing is kept. Input error if a file holds records of another run, or, to
  /// write, if another `RecordsFile` writes the same file.
  RecordsFile(std::filesystem::path path, const std::string& run_name, int rank, int num_processes,
              Purpose purpose = Purpose::write);

  /// nullptr if the entrant has yet to answer the item as it now is, with the budget that it now
  /// has. Stays valid until `reload`.
  const Record* find(const std::string& task, const TaskItem& item, const Entrant& entrant) const;
  /// Whether the item failed in any process.
  const Failure* find_failure(const std::string& task, const std::string& item_id) const;

  /// Adds a line and hands it to the system, so that it outlives this process.
  void add(const Record& record);
  void add(const Failure& failure);

  /// Reads again what all processes have written.
  void reload();
  /// Whether other processes left files and have not written to them since this one began.
  bool is_left_by_others() const { return others_len_ > 0 && others_len_ == count_others(); }
  /// Makes one file of all: FILE with their records and these failures; those of the processes go.
  /// Input error if another `RecordsFile` writes FILE.
  void merge(const std::vector<Failure>& failures);

 private:
  /// Task, item, policy.
  using Key = std::tuple<std::string, std::string, std::string>;

  void add_line(const std::string& line);
  std::vector<std::filesystem::path> all_files() const;
  std::uintmax_t count_others() const;
  /// Takes in the records of a file; returns its whole lines that are records.
  std::string read(const std::filesystem::path& file);

  std::filesystem::path path_, own_path_;
  std::string header_;
  std::ofstream stream_;
  /// To write: of `own_path_`, and of FILE by the process that merges into it.
  std::optional<core::FileLock> lock_, merge_lock_;
  std::uintmax_t others_len_ = 0;                ///< bytes of other processes' files at first
  std::map<Key, std::vector<Record>> finished_;  ///< several if an item or a budget has changed
  std::map<std::pair<std::string, std::string>, Failure> failures_;
};

}  // namespace gsa::eval
