#include "eval/summary.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "support/errors.h"

namespace gsa::eval {
namespace {

using test::error_of;
using test::IsError;

Record record(std::string task, std::string policy, double score, std::int64_t context_tokens,
              std::string id = "0") {
  Record record;
  record.task = std::move(task);
  record.item_id = std::move(id);
  record.metric = "qa_f1";
  record.row.policy = std::move(policy);
  record.row.context_tokens = context_tokens;
  record.row.fraction_read = score / 2;
  record.score = score;
  record.secondary = {score == 1 ? 1.0 : 0.0, score, 0};
  return record;
}

TEST(EvalSummary, GroupsByTaskAndPolicyInOrder) {
  const std::vector<Record> records = {record("b", "full", 1, 10), record("b", "gsa@8", 0.5, 20),
                                       record("b", "full", 0, 30), record("a", "full", 0.5, 40)};
  const auto summaries = summarize(records);
  ASSERT_EQ(summaries.size(), 3U);
  EXPECT_EQ(summaries[0].task, "b");
  EXPECT_EQ(summaries[0].policy, "full");
  EXPECT_EQ(summaries[0].num_items, 2);
  EXPECT_EQ(summaries[0].score.mean, 0.5);
  EXPECT_EQ(summaries[0].f1.mean, 0.5);
  EXPECT_EQ(summaries[0].exact_match.mean, 0.5);
  EXPECT_EQ(summaries[0].contains.mean, 0);
  EXPECT_EQ(summaries[0].fraction_read, 0.25);
  EXPECT_EQ(summaries[0].context_tokens, 20);
  EXPECT_EQ(summaries[1].policy, "gsa@8");
  EXPECT_EQ(summaries[2].task, "a");
  EXPECT_TRUE(summarize({}).empty());
}

TEST(EvalSummary, LossesBecomePerplexities) {
  std::vector<Record> records = {record("p", "full", 1, 10), record("p", "full", 3, 10)};
  for (Record& one : records) one.metric = "perplexity";
  const auto summaries = summarize(records);
  EXPECT_DOUBLE_EQ(summaries[0].score.mean, std::exp(2.0));
  EXPECT_DOUBLE_EQ(summaries[0].score.low, std::exp(1.0));
}

TEST(EvalSummary, PoliciesAreComparedOnTheItemsOfBoth) {
  std::vector<Record> records;
  for (int i = 0; i < 6; ++i) {
    const std::string id = std::to_string(i);
    records.push_back(record("a", "full", 0.5, 10, id));
    records.push_back(record("a", "better", 0.75, 10, id));
    if (i > 0) records.push_back(record("a", "less", 0.25, 10, id));
  }
  const auto comparisons = compare_to("full", records);
  ASSERT_EQ(comparisons.size(), 2U);
  EXPECT_EQ(comparisons[0].policy, "better");
  EXPECT_EQ(comparisons[0].baseline, "full");
  EXPECT_EQ(comparisons[0].num_items, 6);
  EXPECT_EQ(comparisons[0].test.difference.mean, 0.25);
  EXPECT_EQ(comparisons[0].test.p_value, 2.0 / 64);
  EXPECT_EQ(comparisons[0].holm_p, 4.0 / 64);
  EXPECT_EQ(comparisons[1].num_items, 5);
  EXPECT_EQ(comparisons[1].test.difference.mean, -0.25);
  EXPECT_EQ(comparisons[1].holm_p, 4.0 / 64) << "2 / 32 is the larger one, taken once";
  records.push_back(record("b", "better", 0.75, 10));
  EXPECT_THAT(error_of([&] { compare_to("full", records); }),
              IsError(ErrorKind::input, "task b has no answers of the baseline full"));
}

TEST(EvalSummary, EqualBudgetsLeaveOutWhatIsShorterThanAFloor) {
  const auto reading = [](std::string policy, double fraction, std::string id) {
    Record one = record("a", std::move(policy), 1, 10, std::move(id));
    one.row.fraction_read = fraction;
    return one;
  };
  const std::vector<Record> records = {
      reading("gsa@8", 0.10, "0"),         reading("gsa@8", 0.12, "1"),
      reading("gsa@8", 0.50, "2"),         reading("x:match=gsa@8", 0.11, "0"),
      reading("x:match=gsa@8", 0.15, "1"), reading("x:match=gsa@8", 0.40, "2")};
  // The budget adds 0.1 to a floor of 0.02: item 2 has a floor of 0.3, item 1 one of 0.05.
  const std::vector<Matched> matched = {
      {"a", "x:match=gsa@8", "gsa@8", 0.12, 0.12, 0.02, 0.1, true, 8, 0},
      {"a", "y:match=gsa@8", "gsa@8", 0.12, 0.3, 0.3, 0, false, 8, 0}};
  const auto tables = equal_budgets(records, matched);
  ASSERT_EQ(tables.size(), 1U);
  const EqualBudget& table = tables[0];
  EXPECT_EQ(table.target, "gsa@8");
  EXPECT_EQ(table.num_items, 2);
  EXPECT_EQ(table.left_out, std::vector<std::string>{"2"});
  ASSERT_EQ(table.rows.size(), 2U);
  EXPECT_EQ(table.rows[0].policy, "gsa@8");
  EXPECT_DOUBLE_EQ(table.rows[0].fraction_read, 0.11);
  EXPECT_EQ(table.rows[1].policy, "x:match=gsa@8");
  EXPECT_DOUBLE_EQ(table.rows[1].fraction_read, 0.13);
  EXPECT_DOUBLE_EQ(table.target_fraction, 0.11);
  EXPECT_FALSE(table.is_off(table.rows[0]));
  EXPECT_TRUE(table.is_off(table.rows[1])) << "close to what was wanted, but the target reads less";
  EXPECT_FALSE(table.is_off({"z", 0.115, {}}));
  EXPECT_TRUE(table.is_off({"z", 0.104, {}}));
  const std::vector<Matched> share = {
      {"a", "x:match=gsa@8", "0.13", 0.13, 0.13, 0.02, 0.1, true, 8, 0}};
  EXPECT_EQ(equal_budgets(records, share)[0].target_fraction, 0.13);
  ASSERT_EQ(table.unmatched.size(), 1U);
  EXPECT_EQ(table.unmatched[0].entrant, "y:match=gsa@8");
}

TEST(EvalSummary, BucketsOfLengthDouble) {
  const std::vector<Record> records = {record("a", "full", 0, 5000), record("a", "full", 1, 511),
                                       record("a", "full", 0.5, 512), record("a", "full", 1, 1023),
                                       record("a", "gsa@8", 1, 1024)};
  const auto buckets = by_length(records);
  ASSERT_EQ(buckets.size(), 4U);
  EXPECT_EQ(buckets[0].min_tokens, 0);
  EXPECT_EQ(buckets[0].max_tokens, 511);
  EXPECT_EQ(buckets[1].min_tokens, 512);
  EXPECT_EQ(buckets[1].max_tokens, 1023);
  EXPECT_EQ(buckets[1].num_items, 2);
  EXPECT_EQ(buckets[1].score.mean, 0.75);
  EXPECT_EQ(buckets[2].policy, "gsa@8");
  EXPECT_EQ(buckets[3].min_tokens, 4096);
}

TEST(EvalSummary, DepthsAreOfTasksThatStateThem) {
  std::vector<Record> records = {record("a", "full", 0, 10), record("a", "full", 1, 10),
                                 record("a", "full", 1, 10)};
  EXPECT_TRUE(by_depth(records).empty());
  for (Record& one : records) {
    one.length = 1024;
    one.depth = 0.5;
  }
  records[2].depth = 1;
  const auto cells = by_depth(records);
  ASSERT_EQ(cells.size(), 2U);
  EXPECT_EQ(cells[0].num_items, 2);
  EXPECT_EQ(cells[0].score, 0.5);
  EXPECT_EQ(cells[1].depth, 1);
}

}  // namespace
}  // namespace gsa::eval
