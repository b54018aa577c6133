#include "eval/statistics.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "core/rng.h"

namespace gsa::eval {
namespace {

TEST(EvalStatistics, IntervalsAreThoseOfTheMean) {
  EXPECT_EQ(bootstrap({}).mean, 0);
  const std::vector<double> same(7, 0.25);
  const Interval point = bootstrap(same);
  EXPECT_EQ(point.mean, 0.25);
  EXPECT_EQ(point.low, 0.25);
  EXPECT_EQ(point.high, 0.25);
  const Interval single = bootstrap(std::vector{0.25});
  EXPECT_EQ(single.mean, 0.25);
  EXPECT_TRUE(std::isnan(single.low) && std::isnan(single.high)) << "one value has no interval";

  std::vector<double> halves(200, 0);
  for (std::size_t i = 0; i < halves.size(); i += 2) halves[i] = 1;
  const Interval interval = bootstrap(halves);
  const double deviation = 0.5 / std::sqrt(200.0);
  EXPECT_EQ(interval.mean, 0.5);
  // 2000 draws: the ends are within a seventh of a standard deviation.
  EXPECT_NEAR(interval.low, 0.5 - 1.96 * deviation, deviation / 7);
  EXPECT_NEAR(interval.high, 0.5 + 1.96 * deviation, deviation / 7);
  EXPECT_EQ(bootstrap(halves).low, interval.low) << "the draws are fixed";
}

TEST(EvalStatistics, SmallPermutationTestsAreExact) {
  // One of 2^n patterns of signs and its opposite reach the sum of n equal differences.
  for (std::size_t n = 1; n <= 12; ++n) {
    const std::vector<double> a(n, 0.7), b(n, 0.4);
    const PairedTest test = paired_test(a, b);
    EXPECT_DOUBLE_EQ(test.p_value, 2 / std::exp2(static_cast<double>(n))) << n;
    EXPECT_NEAR(test.difference.mean, 0.3, 1e-12);
    EXPECT_DOUBLE_EQ(paired_test(b, a).p_value, test.p_value);
  }
  // Differences 1, 2, -1: |sum| >= 2 in 6 of 8 patterns (4, 2, 2 and their opposites).
  const std::vector<double> a = {1, 2, 0}, b = {0, 0, 1};
  EXPECT_DOUBLE_EQ(paired_test(a, b).p_value, 0.75);
  EXPECT_EQ(paired_test(a, a).p_value, 1);
  EXPECT_EQ(paired_test({}, {}).p_value, 1);
}

TEST(EvalStatistics, DrawnPermutationsComeNearTheNormalTest) {
  core::Rng rng(7);
  for (const double shift : {0.0, 0.05, 0.1, 0.2}) {
    std::vector<double> a, b;
    double sum = 0, squares = 0;
    for (int i = 0; i < 400; ++i) {
      a.push_back(rng.uniform() + shift);
      b.push_back(rng.uniform());
      sum += a.back() - b.back();
      squares += (a.back() - b.back()) * (a.back() - b.back());
    }
    const double p = std::erfc(std::abs(sum) / std::sqrt(2 * squares));
    EXPECT_NEAR(paired_test(a, b).p_value, p, 0.02) << shift;
    EXPECT_EQ(paired_test(a, b).p_value, paired_test(a, b).p_value) << "the draws are fixed";
  }
}

TEST(EvalStatistics, PairsSeeWhatMeansDoNot) {
  // A policy that is a little better on every item, while items differ a lot.
  std::vector<double> a, b;
  for (int i = 0; i < 40; ++i) {
    b.push_back(i % 2);
    a.push_back(b.back() + 0.01);
  }
  const PairedTest test = paired_test(a, b);
  EXPECT_LT(test.p_value, 0.001);
  EXPECT_GT(test.difference.low, 0);
  EXPECT_GT(bootstrap(b).high, bootstrap(a).low);
}

TEST(EvalStatistics, HolmIsTheTableOfThePaper) {
  // Sorted 0.005 * 4, 0.01 * 3, 0.03 * 2, 0.04 * 1, not falling.
  const std::vector<double> p = {0.01, 0.04, 0.03, 0.005};
  const auto adjusted = holm(p);
  const std::vector<double> expected = {0.03, 0.06, 0.06, 0.02};
  for (std::size_t i = 0; i < p.size(); ++i) EXPECT_NEAR(adjusted[i], expected[i], 1e-12);
  EXPECT_EQ(holm(std::vector{0.9, 0.8}), (std::vector{1.0, 1.0}));
  EXPECT_TRUE(holm({}).empty());
}

}  // namespace
}  // namespace gsa::eval
