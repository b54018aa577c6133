#pragma once

#include <algorithm>
#include <cstddef>
#include <utility>
#include <vector>

namespace gsa::apps {

/// Repetitions of a measurement; at least one before anything is asked.
struct Samples {
  std::vector<double> values;

  double min() const { return *std::min_element(values.begin(), values.end()); }
  double max() const { return *std::max_element(values.begin(), values.end()); }
  double median() const {
    std::vector<double> sorted = values;
    std::sort(sorted.begin(), sorted.end());
    const std::size_t half = sorted.size() / 2;
    return sorted.size() % 2 == 1 ? sorted[half] : (sorted[half - 1] + sorted[half]) / 2;
  }
};

}  // namespace gsa::apps
