#pragma once

#include <cstdint>

namespace gsa::train {

/// Learning rate over a run, as a factor of its peak: linear warm-up, then a cosine to 0.
struct Schedule {
  std::int64_t num_steps = 1;
  double warmup = 0.05;  ///< share of the steps, in [0, 1)

  /// Above 0 and at most 1; of step 0, 1, ... num_steps - 1.
  double factor(std::int64_t step) const;
};

}  // namespace gsa::train
