#include "eval/calibration.h"

#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "core/file.h"
#include "engine/tiny_model.h"
#include "eval/perplexity.h"
#include "eval/runner.h"
#include "eval/summary.h"
#include "support/errors.h"
#include "support/temp_dir.h"

namespace gsa::eval {
namespace {

using attention::PolicySpec;
using engine::test::random_text;
using engine::test::tiny_model;
using gsa::test::error_of;
using gsa::test::IsError;
using gsa::test::TempDir;

engine::PolicyRun run_of(const std::string& policy) {
  return {tiny_model(), PolicySpec::parse(policy)};
}

Task make_task(int num_items, std::int64_t shortest, std::uint64_t seed) {
  Task task{"a", {}, {}};
  for (int i = 0; i < num_items; ++i) {
    TaskItem item;
    item.id = std::to_string(seed + i);
    item.documents = {random_text(shortest + 300 * i, seed + i)};
    item.question = "Who is " + random_text(5, seed + i) + "?";
    item.answers = {"x"};
    task.items.push_back(std::move(item));
  }
  return task;
}

AnswerOptions options() {
  AnswerOptions result;
  result.session.chat_template = text::ChatTemplate::by_name("chatml");
  result.generate.max_tokens = 3;
  return result;
}

MatchTarget target_of(const std::string& text) {
  MatchTarget target = parse_target(text);
  if (target.policy) target.set_model(tiny_model());
  return target;
}

TEST(EvalCalibration, PoliciesReadAsMuchAsTheirTarget) {
  const std::vector<MatchTarget> targets = {target_of("0.5"), target_of("streaming:tokens=450")};
  std::vector<Entrant> entrants;
  entrants.emplace_back(run_of("streaming:tokens=450"));
  for (const char* policy : {"meanpool@8", "streaming", "snapkv", "h2o", "oracle", "random@8"})
    for (const MatchTarget& target : targets) entrants.emplace_back(run_of(policy), target.name);

  const Task calibration = make_task(4, 700, 1), scored = make_task(6, 600, 50);
  const auto matched = calibrate(calibration, targets, entrants, options());
  ASSERT_EQ(matched.size(), entrants.size() - 1);
  for (const Matched& one : matched) {
    SCOPED_TRACE(one.entrant);
    EXPECT_TRUE(one.is_found);
    EXPECT_NEAR(one.measured, one.wanted, kTolerance * one.wanted);
    EXPECT_LT(one.floor, one.measured);
    EXPECT_EQ(one.num_items, 4);
    if (one.target == "0.5") {
      EXPECT_EQ(one.wanted, 0.5);
    }
  }
  set_budgets(matched, entrants);

  RunOptions run;
  run.answer = options();
  const auto result = run_tasks({&scored, 1}, entrants, run);
  EXPECT_EQ(result.records.size(), scored.items.size() * entrants.size());
  for (const EqualBudget& table : equal_budgets(result.records, matched)) {
    EXPECT_EQ(table.num_items, 6);
    for (const auto& row : table.rows) {
      // The items that are scored are others than those that budgets were set on.
      EXPECT_NEAR(row.fraction_read, table.wanted, 0.1 * table.wanted) << row.policy;
    }
  }
}

TEST(EvalCalibration, WhatCannotBeReachedIsSaid) {
  const std::vector<MatchTarget> targets = {target_of("0.1")};
  std::vector<Entrant> entrants;
  entrants.emplace_back(run_of("quest@16:dense=2"), targets[0].name);  // two layers of three
  entrants.emplace_back(run_of("streaming"), targets[0].name);
  const auto matched = calibrate(make_task(3, 600, 1), targets, entrants, options());
  EXPECT_FALSE(matched[0].is_found);
  EXPECT_GT(matched[0].floor, 0.6);
  EXPECT_TRUE(matched[1].is_found);
  EXPECT_EQ(matched[1].num_items, 3) << "who sits out takes no items with it";
  set_budgets(matched, entrants);
  EXPECT_FALSE(entrants[0].plays("a"));
  EXPECT_TRUE(entrants[1].plays("a"));
  EXPECT_FALSE(entrants[1].plays("b"));
}

TEST(EvalCalibration, ItemsShorterThanAFloorAreLeftOut) {
  const std::vector<MatchTarget> targets = {target_of("0.3")};
  std::vector<Entrant> entrants;
  entrants.emplace_back(run_of("snapkv"), targets[0].name);  // always sees the question
  Task task = make_task(3, 700, 1);
  task.items[1].documents = {"Short."};
  const auto matched = calibrate(task, targets, entrants, options());
  EXPECT_EQ(matched[0].num_items, 2);
  EXPECT_EQ(matched[0].num_below_floor, 1);
  EXPECT_TRUE(matched[0].is_found);
}

TEST(EvalCalibration, EveryMeasurementIsASignOfLife) {
  const std::vector<MatchTarget> targets = {target_of("0.5")};
  std::vector<Entrant> entrants;
  entrants.emplace_back(run_of("meanpool@8"), targets[0].name);
  AnswerOptions counting = options();
  int num_signs = 0;
  counting.on_read = [&](std::int64_t num_read, std::int64_t num_total) {
    num_signs += num_read == num_total;
  };
  calibrate(make_task(3, 700, 1), targets, entrants, counting);
  EXPECT_GE(num_signs, 2 * 3) << "contexts are read once, and measured at the floor and above";
}

TEST(EvalCalibration, TextsToBePredictedAreMeasuredToo) {
  const Task task =
      make_perplexity_task({.lengths = {300, 600}, .num_predicted = 20, .num_per_length = 1},
                           random_text(2000, 3), "t", tiny_model()->tokenizer());
  const std::vector<MatchTarget> targets = {target_of("0.5")};
  std::vector<Entrant> entrants;
  entrants.emplace_back(run_of("meanpool@8"), targets[0].name);
  entrants.emplace_back(run_of("streaming"), targets[0].name);
  for (const Matched& one : calibrate(task, targets, entrants, options()))
    EXPECT_TRUE(one.is_found) << one.entrant;
}

TEST(EvalCalibration, TargetsAreSharesOrPolicies) {
  EXPECT_EQ(parse_target("0.25").fraction, 0.25);
  EXPECT_EQ(parse_target("gsa").name, "gsa@8");
  EXPECT_FALSE(parse_target("gsa@16").fraction);
  EXPECT_EQ(target_of("gsa@16:route=gist").name, "gsa@16") << "as on its model";
  for (const char* text : {"0", "1.5", "-0.1"})
    EXPECT_THAT(error_of([&] { parse_target(text); }), IsError(ErrorKind::input, "share"));
  EXPECT_THAT(error_of([&] { parse_target("nonsense"); }), IsError(ErrorKind::input, "nonsense"));
}

TEST(EvalCalibration, BudgetsAreKept) {
  const TempDir dir;
  const std::vector<Matched> matched = {
      {"a", "x:match=0.1", "0.1", 0.1, 0.104, 0.02, 0.0625, true, 8, 1}};
  Task items = make_task(2, 50, 1);
  EXPECT_TRUE(read_matched("run", items, dir / "budgets").empty());
  write_matched(matched, "run", items, dir / "budgets");
  const auto found = read_matched("run", items, dir / "budgets");
  ASSERT_EQ(found.size(), 1U);
  EXPECT_EQ(found.front().entrant, "x:match=0.1");
  EXPECT_EQ(found.front().share, 0.0625);
  EXPECT_EQ(found.front().num_below_floor, 1);
  EXPECT_TRUE(read_matched("another run", items, dir / "budgets").empty());
  items.items[1].documents.emplace_back("More.");
  EXPECT_TRUE(read_matched("run", items, dir / "budgets").empty());

  auto object = nlohmann::json::parse(core::read_file(dir / "budgets"));
  object.erase("items");
  std::ofstream(dir / "budgets") << object;
  EXPECT_EQ(read_matched("run", items, dir / "budgets").size(), 1U) << "an older file";
  std::ofstream(dir / "budgets") << "{\"run\": \"run\", \"budg";
  EXPECT_TRUE(read_matched("run", items, dir / "budgets").empty());
}

TEST(EvalCalibration, BudgetsAreOfAnEntrantAndATarget) {
  std::vector<Entrant> entrants;
  entrants.emplace_back(run_of("full"));
  for (const char* target : {"0.1", "0.2"}) entrants.emplace_back(run_of("streaming"), target);
  const auto budget_of = [](const Entrant& entrant) {
    Matched one;
    one.entrant = entrant.name;
    one.target = entrant.target;
    return one;
  };
  const std::vector<Matched> kept = {budget_of(Entrant(run_of("h2o"), "0.1")),
                                     budget_of(entrants[2]), budget_of(entrants[1])};
  EXPECT_TRUE(without_budget(entrants, kept).empty());
  const auto used = budgets_of(entrants, kept);
  ASSERT_EQ(used.size(), 2U) << "not that of a policy that is not asked for";
  EXPECT_EQ(used[0].target, "0.1");
  const auto missing = without_budget(entrants, std::span(kept).first(2));
  ASSERT_EQ(missing.size(), 1U);
  EXPECT_EQ(missing[0].name, entrants[1].name);
}

TEST(EvalEntrant, KnowsWhichBudgetsCanBeSet) {
  for (const char* policy : {"gsa@8", "gsa@4-4", "meanpool", "streaming", "random", "quest",
                             "snapkv", "h2o", "oracle"}) {
    const PolicySpec spec = PolicySpec::parse(policy);
    EXPECT_TRUE(has_token_budget(spec)) << policy;
    EXPECT_TRUE(has_default_budget(spec)) << policy;
    EXPECT_FALSE(has_default_budget(with_tokens(spec, 33))) << policy;
    EXPECT_EQ(PolicySpec::parse(with_tokens(spec, 33).to_string()).budget.tokens, 33);
  }
  for (const char* policy : {"full", "gist-only@8"})
    EXPECT_FALSE(has_token_budget(PolicySpec::parse(policy))) << policy;
  EXPECT_FALSE(has_default_budget(PolicySpec::parse("gsa@8:ratio=8")));
  EXPECT_FALSE(has_default_budget(PolicySpec::parse("gsa@8:top_p=0.5")));
}

TEST(EvalEntrant, StatesItsConditions) {
  const auto conditions = [](const char* policy) { return conditions_of(run_of(policy)); };
  EXPECT_EQ(conditions("full").context_read, "full attention");
  EXPECT_EQ(conditions("gsa@8").context_read, "gist mask");
  EXPECT_EQ(conditions("streaming").context_read, "window");
  EXPECT_EQ(conditions("gsa@8").adapter, "");
  EXPECT_TRUE(conditions("gsa@8").is_query_aware);
  EXPECT_FALSE(conditions("h2o").is_query_aware);
}

}  // namespace
}  // namespace gsa::eval
