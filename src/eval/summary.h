#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "eval/runner.h"

namespace gsa::eval {

/// A mean with the interval that holds 95 % of the means of resampled items (percentile bootstrap,
/// 2000 draws, a fixed seed).
struct Interval {
  double mean = 0, low = 0, high = 0;
};
Interval bootstrap(std::span<const double> values);

/// How one policy did on one task.
struct Summary {
  std::string task;
  std::string policy;
  std::int64_t num_items = 0;
  Interval f1, exact_match, contains;                                 ///< 0 to 1
  double fraction_read = 0, prefill_fraction = 0, answer_tokens = 0;  ///< means over items
  double context_tokens = 0;
};

/// One summary per task and policy, in the order in which they first occur.
std::vector<Summary> summarize(std::span<const Record> records);

}  // namespace gsa::eval
