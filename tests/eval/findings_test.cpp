#include "eval/findings.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "engine/tiny_model.h"

namespace gsa::eval {
namespace {

using testing::HasSubstr;

Entrant entrant_of(const std::string& policy, const std::string& target = "") {
  const engine::PolicyRun run{engine::test::tiny_model(), attention::PolicySpec::parse(policy)};
  return target.empty() ? Entrant(run) : Entrant(run, target);
}

Record record_of(const std::string& task, const Entrant& entrant, int item, double score,
                 double fraction) {
  Record record;
  record.task = task;
  record.item_id = std::to_string(item);
  record.metric = task == "text" ? "perplexity" : "qa_f1";
  record.row.policy = entrant.name;
  record.row.fraction_read = fraction;
  record.score = score;
  return record;
}

const std::vector<Entrant>& entrants() {
  static const std::vector<Entrant> all = {entrant_of("full"), entrant_of("gsa@8"),
                                           entrant_of("streaming", "gsa@8"),
                                           entrant_of("h2o", "gsa@8")};
  return all;
}

Findings findings() {
  RunResult result;
  for (const char* task : {"qa", "text"}) {
    for (int item = 0; item < 6; ++item) {
      result.records.push_back(record_of(task, entrants()[0], item, 0.5, 1));
      result.records.push_back(record_of(task, entrants()[1], item, 0.75, 0.2));
      result.records.push_back(record_of(task, entrants()[2], item, 0.25 + 0.1 * item, 0.22));
    }
  }
  const std::vector<Matched> matched = {
      {"qa", entrants()[2].name, "gsa@8", 0.21, 0.21, 0.02, 0.1, true, 8, 0},
      {"qa", entrants()[3].name, "gsa@8", 0.21, 0.4, 0.4, 0, false, 8, 0}};
  return find(result, matched, "full");
}

TEST(EvalFindings, ReportsHaveAdjustedPValues) {
  const Findings found = findings();
  const Report report = make_report(found, entrants(), {});
  ASSERT_EQ(report.pairs.size(), found.comparisons.size());
  for (std::size_t i = 0; i < report.pairs.size(); ++i) {
    EXPECT_EQ(report.pairs[i].p_value, found.comparisons[i].test.p_value);
    EXPECT_EQ(report.pairs[i].adjusted_p_value, found.comparisons[i].holm_p);
  }
  EXPECT_EQ(report.pairs[0].adjusted_p_value, 2 * report.pairs[0].p_value);
}

TEST(EvalFindings, ReportsShowEqualBudgets) {
  const Report report = make_report(findings(), entrants(), {});
  ASSERT_EQ(report.equal_budgets.size(), 1U);
  const BudgetGroup& group = report.equal_budgets[0];
  EXPECT_EQ(group.task, "qa");
  EXPECT_EQ(group.target, "gsa@8");
  EXPECT_DOUBLE_EQ(group.target_fraction, 0.2);
  EXPECT_EQ(group.num_items, 6);
  ASSERT_EQ(group.members.size(), 3U);
  EXPECT_EQ(group.members[0].policy, "gsa@8");
  EXPECT_EQ(group.members[0].context_read, "gist mask");
  EXPECT_TRUE(group.members[0].is_query_aware);
  EXPECT_DOUBLE_EQ(group.members[0].score.mean, 75);
  EXPECT_FALSE(group.members[0].is_off);
  EXPECT_EQ(group.members[1].policy, "streaming:match=gsa@8");
  EXPECT_EQ(group.members[1].context_read, "window");
  EXPECT_TRUE(group.members[1].is_off) << "22 % where the target reads 20 %";
  EXPECT_EQ(group.members[2].policy, "h2o:match=gsa@8");
  EXPECT_TRUE(group.members[2].is_out);
  EXPECT_EQ(group.members[2].fraction_read, 0.4);
  EXPECT_THAT(report.notes[0], HasSubstr("more than 5 % off the 20.0 % of the target there: "
                                         "streaming:match=gsa@8 (22.0 %)"));
}

TEST(EvalFindings, DifferencesOfLossesAreNats) {
  const Report report = make_report(findings(), entrants(), {});
  EXPECT_EQ(report.pairs[0].task, "qa");
  EXPECT_DOUBLE_EQ(report.pairs[0].difference.mean, 25);
  EXPECT_EQ(report.pairs[2].task, "text");
  EXPECT_DOUBLE_EQ(report.pairs[2].difference.mean, 0.25);
  EXPECT_THAT(to_markdown(report), HasSubstr("+0.250 (+0.250 to +0.250) nats"));
}

TEST(EvalFindings, CautionsNameSmallTasksAndWhatCouldNotBeDiagnosed) {
  Findings found;
  found.summaries.resize(2);
  found.summaries[0].task = "long";
  found.summaries[0].metric = "qa_f1";
  found.summaries[0].num_items = 10;
  found.summaries[1].metric = "perplexity";
  found.summaries[1].num_items = 20;
  EXPECT_TRUE(cautions(found).empty());
  found.wants_diagnoses = true;
  EXPECT_EQ(cautions(found), std::vector<std::string>{
                                 "No diagnostics of long: no item's answer stands in its text."});
  found.diagnoses.emplace_back().task = "long";
  EXPECT_TRUE(cautions(found).empty());
  found.summaries[1].num_items = 9;
  EXPECT_EQ(cautions(found),
            std::vector<std::string>{"Intervals of tasks with fewer than 10 items are not to be "
                                     "trusted."});
  EXPECT_EQ(make_report(found, {}, {}).notes, cautions(found));
}

TEST(EvalFindings, OtherMetricsAreThoseOfShortAnswers) {
  Findings found = findings();
  EXPECT_EQ(make_report(found, entrants(), {}).rows[0].secondary.size(), 3U);
  for (const char* metric : {"rouge_l", "rouge_l_zh", "code_similarity", "perplexity"}) {
    found.summaries[0].metric = metric;
    EXPECT_TRUE(make_report(found, entrants(), {}).rows[0].secondary.empty()) << metric;
  }
}

}  // namespace
}  // namespace gsa::eval
