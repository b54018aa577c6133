#include "train/schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace gsa::train {

double Schedule::factor(std::int64_t step) const {
  const auto total = static_cast<double>(num_steps);
  const double done = static_cast<double>(step) / total;
  const double rise = static_cast<double>(step + 1) / std::max(1.0, warmup * total);
  const double fall = std::max(0.0, (done - warmup) / (1 - warmup));
  return std::min(1.0, rise) * 0.5 * (1 + std::cos(std::numbers::pi * fall));
}

}  // namespace gsa::train
