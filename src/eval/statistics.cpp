#include "eval/statistics.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/rng.h"

namespace gsa::eval {
namespace {

constexpr int kNumDraws = 2000;
constexpr int kNumPermutations = 10000;
constexpr std::size_t kMostEnumerated = 12;  // items: 4096 patterns of signs
constexpr std::uint64_t kSeed = 1;

double mean_of(std::span<const double> values) {
  return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
}

/// Sum of the values, each with the sign that `is_negative` gives it.
template <typename Sign>
double signed_sum(std::span<const double> values, Sign&& is_negative) {
  double sum = 0;
  for (std::size_t i = 0; i < values.size(); ++i) sum += is_negative(i) ? -values[i] : values[i];
  return sum;
}

/// Share of sign patterns whose sum is at least as far from 0 as that of the values.
double sign_permutation_p(std::span<const double> values) {
  const double observed = std::abs(std::accumulate(values.begin(), values.end(), 0.0));
  const double least = observed * (1 - 1e-9) - 1e-12;  // sums in another order may round down
  if (values.size() <= kMostEnumerated) {
    const std::uint32_t num_patterns = 1U << values.size();
    int num_extreme = 0;
    for (std::uint32_t pattern = 0; pattern < num_patterns; ++pattern) {
      const double sum = signed_sum(values, [&](std::size_t i) { return pattern >> i & 1U; });
      num_extreme += std::abs(sum) >= least;
    }
    return static_cast<double>(num_extreme) / num_patterns;
  }
  core::Rng rng(kSeed);
  int num_extreme = 0;
  std::uint32_t bits = 0;
  for (int draw = 0; draw < kNumPermutations; ++draw) {
    const double sum = signed_sum(values, [&](std::size_t i) {
      bits = i % 32 == 0 ? rng.next() : bits >> 1;
      return bits & 1U;
    });
    num_extreme += std::abs(sum) >= least;
  }
  // The pattern that was observed counts as one of them (Phipson & Smyth 2010).
  return (num_extreme + 1.0) / (kNumPermutations + 1.0);
}

}  // namespace

Interval bootstrap(std::span<const double> values) {
  if (values.empty()) return {};
  if (values.size() == 1) return {values.front(), not_measured, not_measured};
  core::Rng rng(kSeed);
  std::vector<double> means;
  for (int draw = 0; draw < kNumDraws; ++draw) {
    double sum = 0;
    for (std::size_t i = 0; i < values.size(); ++i)
      sum += values[rng.below(static_cast<std::uint32_t>(values.size()))];
    means.push_back(sum / static_cast<double>(values.size()));
  }
  std::sort(means.begin(), means.end());
  constexpr double tail = 0.025;
  const auto at = [&](double share) {
    return means[static_cast<std::size_t>(share * (kNumDraws - 1))];
  };
  return {mean_of(values), at(tail), at(1 - tail)};
}

PairedTest paired_test(std::span<const double> a, std::span<const double> b) {
  std::vector<double> differences;
  for (std::size_t i = 0; i < a.size(); ++i) differences.push_back(a[i] - b[i]);
  if (differences.empty()) return {};
  return {bootstrap(differences), sign_permutation_p(differences)};
}

std::vector<double> holm(std::span<const double> p_values) {
  std::vector<std::size_t> order(p_values.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](std::size_t i, std::size_t j) { return p_values[i] < p_values[j]; });
  std::vector<double> adjusted(p_values.size());
  double largest = 0;
  for (std::size_t rank = 0; rank < order.size(); ++rank) {
    const double scaled = p_values[order[rank]] * static_cast<double>(order.size() - rank);
    largest = std::max(largest, std::min(scaled, 1.0));
    adjusted[order[rank]] = largest;
  }
  return adjusted;
}

}  // namespace gsa::eval
