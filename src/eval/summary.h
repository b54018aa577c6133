#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "eval/calibration.h"
#include "eval/interval.h"
#include "eval/record.h"
#include "eval/statistics.h"

namespace gsa::eval {

/// How one policy did on one task. Scores are from 0 to 1; of the metric perplexity `score` is
/// e to the mean loss, from 1 up, less is better.
struct Summary {
  std::string task;
  std::string policy;  ///< the entrant's name
  std::string metric;
  std::int64_t num_items = 0;
  Interval score;
  Interval f1, exact_match, contains;                                 ///< 0 of perplexity
  double fraction_read = 0, prefill_fraction = 0, answer_tokens = 0;  ///< means over items
  double context_tokens = 0;
  double prefill_seconds = 0, decode_ms_per_token = 0, kv_bytes_per_token = 0;
  double peak_memory_bytes = 0;  ///< the largest of the items
  std::int64_t nominal_ratio = 0;
  std::int64_t num_truncated = 0;
};

/// What scores of a metric are multiplied with to be shown: 100, or 1 of the metric perplexity.
double scale_of(std::string_view metric);
/// Mean and interval of records' scores; see `Summary::score`.
Interval mean_score(std::span<const Record* const> records);

/// One summary per task and policy, in the order in which they first occur.
std::vector<Summary> summarize(std::span<const Record> records);

/// Policies that read the same share of the keys of a task.
struct EqualBudget {
  struct Row {
    std::string policy;
    double fraction_read = 0;
    Interval score;
  };
  std::string task;
  std::string target;
  double wanted = 0;           ///< fraction that the target read when budgets were sought
  double target_fraction = 0;  ///< what the target policy reads on these items; of a share, and if
                               ///< the policy is not in the run, `wanted`
  std::int64_t num_items = 0;  ///< the same items for all rows
  std::vector<std::string> left_out;  ///< items shorter than the floor of one of the policies
  std::vector<Row> rows;              ///< the target first, if it is a policy of the run
  std::vector<Matched> unmatched;     ///< policies that no budget brings to the target

  /// Whether a row reads more or less than the target on these items by more than `kTolerance`.
  bool is_off(const Row& row) const;
};

/// One table per task and target. An item is left out if a policy would read more than the target
/// there even with the smallest budget: its measured fraction less what the budget adds on the
/// calibration items.
std::vector<EqualBudget> equal_budgets(std::span<const Record> records,
                                       std::span<const Matched> matched);

/// Policy against a baseline on the items of a task that both answered. Of the metric perplexity
/// the difference is that of losses in nats per token.
struct Comparison {
  std::string task;
  std::string policy, baseline;
  std::int64_t num_items = 0;
  PairedTest test;    ///< policy minus baseline
  double holm_p = 1;  ///< adjusted for the comparisons of this task
};

/// Every policy of every task against the baseline, which must be one of them (input error).
std::vector<Comparison> compare_to(const std::string& baseline, std::span<const Record> records);

/// Mean scores by length of context: buckets that double from 512 tokens, those with items.
struct LengthBucket {
  std::string task, policy;
  std::int64_t min_tokens = 0, max_tokens = 0;  ///< inclusive
  std::int64_t num_items = 0;
  Interval score;
};
std::vector<LengthBucket> by_length(std::span<const Record> records);

/// Mean scores by stated length and depth of the answer, of tasks whose items state both.
struct DepthCell {
  std::string task, policy;
  std::int64_t length = 0;
  double depth = 0;
  std::int64_t num_items = 0;
  double score = 0;
};
std::vector<DepthCell> by_depth(std::span<const Record> records);

}  // namespace gsa::eval
