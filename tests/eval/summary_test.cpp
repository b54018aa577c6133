#include "eval/summary.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

namespace gsa::eval {
namespace {

Record record(std::string task, std::string policy, double f1, std::int64_t context_tokens) {
  Record record;
  record.task = std::move(task);
  record.row.policy = std::move(policy);
  record.row.context_tokens = context_tokens;
  record.row.fraction_read = f1 / 2;
  record.scores = {f1 == 1 ? 1.0 : 0.0, f1, 0};
  return record;
}

TEST(EvalSummary, IntervalsAreThoseOfTheMean) {
  EXPECT_EQ(bootstrap({}).mean, 0);
  const std::vector<double> same(7, 0.25);
  const Interval point = bootstrap(same);
  EXPECT_EQ(point.mean, 0.25);
  EXPECT_EQ(point.low, 0.25);
  EXPECT_EQ(point.high, 0.25);

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

TEST(EvalSummary, GroupsByTaskAndPolicyInOrder) {
  const std::vector<Record> records = {record("b", "full", 1, 10), record("b", "gsa@8", 0.5, 20),
                                       record("b", "full", 0, 30), record("a", "full", 0.5, 40)};
  const auto summaries = summarize(records);
  ASSERT_EQ(summaries.size(), 3U);
  EXPECT_EQ(summaries[0].task, "b");
  EXPECT_EQ(summaries[0].policy, "full");
  EXPECT_EQ(summaries[0].num_items, 2);
  EXPECT_EQ(summaries[0].f1.mean, 0.5);
  EXPECT_EQ(summaries[0].exact_match.mean, 0.5);
  EXPECT_EQ(summaries[0].contains.mean, 0);
  EXPECT_EQ(summaries[0].fraction_read, 0.25);
  EXPECT_EQ(summaries[0].context_tokens, 20);
  EXPECT_EQ(summaries[1].policy, "gsa@8");
  EXPECT_EQ(summaries[2].task, "a");
  EXPECT_TRUE(summarize({}).empty());
}

}  // namespace
}  // namespace gsa::eval
