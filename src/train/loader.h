#pragma once

#include <c10/core/Device.h>

#include <condition_variable>
#include <cstdint>
#include <exception>
#include <map>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

#include "attention/policy.h"
#include "train/rows.h"
#include "train/sampler.h"

namespace gsa::train {

/// Which rows a step trains on, and how they are laid out: a pure function of the step, so that a
/// resumed run and any number of workers draw the same rows.
struct RowPlan {
  /// Whether every row draws from the mix by itself, or all rows of a step take the same entry, one
  /// after the other.
  enum class Mix { drawn_per_row, cycled_per_step };
  /// Which rows are there under full attention, too; bare rows are those without suffixes.
  enum class PlainView { none, bare_rows, all_rows };

  std::vector<attention::PolicySpec> policies;
  Mix mix = Mix::drawn_per_row;
  std::int64_t rows_per_step = 8;  ///< of all workers
  std::int64_t num_micro_batches = 1;
  std::int64_t row_len = 4608;       ///< raw tokens and gists of the context
  std::int64_t max_bare_weight = 0;  ///< PackOptions
  std::uint64_t seed = 0;
  int rank = 0, num_workers = 1;
  PlainView plain_view = PlainView::none;

  /// Input error unless the rows can be divided evenly.
  void check() const;
  std::int64_t rows_per_micro_batch() const {
    return rows_per_step / num_workers / num_micro_batches;
  }
  std::int64_t first_row(std::int64_t step, std::int64_t micro_batch) const {
    return step * rows_per_step + (rank * num_micro_batches + micro_batch) * rows_per_micro_batch();
  }
  const attention::PolicySpec& policy(std::int64_t step, std::int64_t row) const;
};

/// One micro-batch. Bare rows come behind the others.
struct TrainBatch {
  PackedRows rows;
  /// The same rows under full attention, with the same labels in the same order; none: there are
  /// none of that kind, or the plan has no such view.
  std::optional<PackedRows> plain_asked = {}, plain_bare = {};

  void to(at::Device device);
};

/// Prepares batches ahead of the trainer, in threads of its own. Their order does not depend on the
/// threads. `sampler` and `word_starts` must outlive it.
class Loader {
 public:
  /// For the steps [first_step, end_step).
  Loader(const Sampler& sampler, const std::vector<bool>& word_starts, const RowPlan& plan,
         at::Device device, std::int64_t first_step, std::int64_t end_step, int num_threads);
  ~Loader();
  Loader(const Loader&) = delete;
  Loader& operator=(const Loader&) = delete;

  /// The next micro-batch, on the device. Rethrows what failed in a thread.
  TrainBatch next();

 private:
  void work();
  TrainBatch prepare(std::int64_t number) const;

  const Sampler& sampler_;
  const std::vector<bool>& word_starts_;
  RowPlan plan_;
  at::Device device_;
  std::int64_t first_step_, num_batches_;
  std::int64_t depth_;  // batches that may wait

  std::mutex mutex_;  // guards what follows
  std::condition_variable changed_;
  std::map<std::int64_t, TrainBatch> ready_;  // by number
  std::int64_t next_prepared_ = 0, next_given_ = 0;
  std::exception_ptr failure_;
  bool is_closing_ = false;

  std::vector<std::thread> threads_;
};

}  // namespace gsa::train
