#pragma once

#include <limits>

namespace gsa::eval {

/// A number that was not measured: an empty cell, no point in a chart.
inline constexpr double not_measured = std::numeric_limits<double>::quiet_NaN();

/// A mean with the interval that holds 95 % of the means of resampled items; of a single item low
/// and high are `not_measured`.
struct Interval {
  double mean = 0, low = 0, high = 0;
};

}  // namespace gsa::eval
