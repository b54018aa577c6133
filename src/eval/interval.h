#pragma once

namespace gsa::eval {

/// A mean with the interval that holds 95 % of the means of resampled items.
struct Interval {
  double mean = 0, low = 0, high = 0;
};

}  // namespace gsa::eval
