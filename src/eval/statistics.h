#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "eval/interval.h"

namespace gsa::eval {

/// Mean and interval by the percentile bootstrap: 2000 draws, a fixed seed. One value has no
/// interval.
Interval bootstrap(std::span<const double> values);

/// Two policies on the same items.
struct PairedTest {
  Interval difference;  ///< a minus b, with the bootstrap's interval over items
  double p_value = 1;   ///< two-sided, that the difference is none
};

/// Compares scores of the same items, in the same order. The p-value is that of the permutation
/// test over signs (Fisher's randomisation test: every sign pattern if there are at most 2^12,
/// otherwise 10000 drawn with a fixed seed). No items: no difference, p = 1.
PairedTest paired_test(std::span<const double> a, std::span<const double> b);

/// p-values adjusted for being several (Holm 1979), in the order given.
std::vector<double> holm(std::span<const double> p_values);

}  // namespace gsa::eval
