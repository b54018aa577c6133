#include "train/loader.h"

#include <ATen/ops/cat.h>
#include <ATen/ops/equal.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <iterator>
#include <utility>

#include "core/error.h"
#include "support/errors.h"
#include "train/random_examples.h"

namespace gsa::train {
namespace {

using attention::PolicySpec;
using test::error_of;
using test::IsError;

/// Rows that follow from their request, with a question in every third.
class FakeSampler : public Sampler {
 public:
  Example row(const RowRequest& request) const override {
    if (request.index == bad_row) core::input_error("row {} is damaged", request.index);
    core::Rng rng(request.seed, static_cast<std::uint64_t>(request.index));
    return random_example(rng, {10 + rng.below(20), 1 + rng.below(9)}, request.index % 3 == 0);
  }
  std::int64_t bad_row = -1;
};

RowPlan make_plan() {
  RowPlan plan;
  for (const char* policy : {"gsa@8", "gsa@4-4", "full"})
    plan.policies.push_back(PolicySpec::parse(policy));
  plan.rows_per_step = 8;
  plan.seed = 5;
  return plan;
}

const std::vector<bool>& word_starts() {
  static const std::vector<bool> bits = [] {
    std::vector<bool> made(300);
    for (std::size_t i = 0; i < made.size(); i += 3) made[i] = true;
    return made;
  }();
  return bits;
}

constexpr std::int64_t kNumSteps = 6;

/// Tokens, positions and labels of every step, micro-batches one after the other.
std::vector<at::Tensor> load(const RowPlan& plan, int num_threads, std::int64_t first_step = 0) {
  const FakeSampler sampler;
  Loader loader(sampler, word_starts(), plan, at::kCPU, first_step, kNumSteps, num_threads);
  std::vector<at::Tensor> steps;
  for (std::int64_t step = first_step; step < kNumSteps; ++step) {
    std::vector<at::Tensor> parts;
    for (std::int64_t i = 0; i < plan.num_micro_batches; ++i) {
      const TrainBatch batch = loader.next();
      parts.push_back(batch.rows.batch.tokens);
      parts.push_back(batch.rows.batch.positions);
      parts.push_back(batch.rows.labels);
    }
    steps.push_back(at::cat(parts));
  }
  return steps;
}

void expect_equal(const std::vector<at::Tensor>& a, const std::vector<at::Tensor>& b) {
  ASSERT_EQ(a.size(), b.size());
  for (std::size_t i = 0; i < a.size(); ++i) EXPECT_TRUE(at::equal(a[i], b[i])) << "step " << i;
}

TEST(Loader, OrderDoesNotDependOnThreads) {
  RowPlan plan = make_plan();
  plan.num_micro_batches = 4;
  const auto one = load(plan, 1);
  expect_equal(load(plan, 4), one);
  EXPECT_FALSE(at::equal(one[0], one[1]));
}

TEST(Loader, ResumedRunSeesTheSameRows) {
  for (const RowPlan::Mix mix : {RowPlan::Mix::drawn_per_row, RowPlan::Mix::cycled_per_step}) {
    RowPlan plan = make_plan();
    plan.mix = mix;
    const auto all = load(plan, 2);
    expect_equal(load(plan, 2, 4), {all.begin() + 4, all.end()});
  }
}

TEST(Loader, WorkersAndMicroBatchesDivideTheSameRows) {
  const FakeSampler sampler;
  // Contexts and labels of a step, in an order that does not depend on who has which.
  struct Step {
    std::vector<std::vector<std::int64_t>> contexts;
    std::vector<std::int64_t> labels;
    bool operator==(const Step&) const = default;
  };
  const auto rows_of = [&](int num_workers, std::int64_t num_micro_batches) {
    std::vector<Step> steps(kNumSteps);
    for (int rank = 0; rank < num_workers; ++rank) {
      RowPlan plan = make_plan();
      plan.rank = rank;
      plan.num_workers = num_workers;
      plan.num_micro_batches = num_micro_batches;
      Loader loader(sampler, word_starts(), plan, at::kCPU, 0, kNumSteps, 2);
      for (Step& step : steps) {
        for (std::int64_t i = 0; i < num_micro_batches; ++i) {
          const PackedRows rows = std::move(loader.next().rows);
          std::ranges::copy(rows.contexts, std::back_inserter(step.contexts));
          const auto* labels = rows.labels.const_data_ptr<std::int64_t>();
          step.labels.insert(step.labels.end(), labels, labels + rows.num_labels());
        }
      }
    }
    for (Step& step : steps) {
      std::ranges::sort(step.contexts);
      std::ranges::sort(step.labels);
    }
    return steps;
  };
  const auto expected = rows_of(1, 1);
  EXPECT_FALSE(expected[0] == expected[1]);
  EXPECT_TRUE(rows_of(1, 4) == expected);
  EXPECT_TRUE(rows_of(2, 1) == expected);
  EXPECT_TRUE(rows_of(4, 2) == expected);
}

TEST(Loader, PlainViewHasTheSameLabels) {
  RowPlan plan = make_plan();
  plan.plain_view = RowPlan::PlainView::all_rows;
  const FakeSampler sampler;
  Loader loader(sampler, word_starts(), plan, at::kCPU, 0, kNumSteps, 2);
  for (std::int64_t step = 0; step < kNumSteps; ++step) {
    const TrainBatch batch = loader.next();
    ASSERT_TRUE(batch.plain_asked && batch.plain_bare);
    const PackedRows &asked = *batch.plain_asked, &bare = *batch.plain_bare;
    EXPECT_TRUE(at::equal(at::cat({asked.labels, bare.labels}), batch.rows.labels));
    EXPECT_EQ(asked.num_labels(), batch.rows.num_asked_labels());
    EXPECT_EQ(bare.num_bare_labels(), batch.rows.num_bare_labels());
    EXPECT_EQ(asked.num_tokens() + bare.num_tokens(), batch.rows.num_raw);  // no gists
  }
}

TEST(Loader, BareRowsMayBeViewedAlone) {
  RowPlan plan = make_plan();
  plan.plain_view = RowPlan::PlainView::bare_rows;
  const FakeSampler sampler;
  Loader loader(sampler, word_starts(), plan, at::kCPU, 0, kNumSteps, 2);
  for (std::int64_t step = 0; step < kNumSteps; ++step) {
    const TrainBatch batch = loader.next();
    EXPECT_FALSE(batch.plain_asked);
    ASSERT_TRUE(batch.plain_bare);
    const std::int64_t num_asked = batch.rows.num_asked_labels();
    ASSERT_GT(num_asked, 0);
    EXPECT_TRUE(at::equal(batch.plain_bare->labels,
                          batch.rows.labels.narrow(0, num_asked, batch.rows.num_bare_labels())));
  }
  plan.rows_per_step = 1;  // row 0 asks, row 1 is text
  Loader single(sampler, word_starts(), plan, at::kCPU, 0, 2, 1);
  EXPECT_FALSE(single.next().plain_bare);
  EXPECT_TRUE(single.next().plain_bare);
}

TEST(Loader, BoundsTheWeightOfBareRows) {
  RowPlan plan = make_plan();
  const auto first = [&] {
    const FakeSampler sampler;
    Loader loader(sampler, word_starts(), plan, at::kCPU, 0, 1, 1);
    return std::move(loader.next().rows);
  };
  const PackedRows all = first();
  EXPECT_EQ(all.label_weight(), static_cast<double>(all.num_labels()));
  plan.max_bare_weight = 3;
  const PackedRows bounded = first();
  EXPECT_EQ(bounded.num_labels(), all.num_labels());
  std::int64_t expected = 0;  // rows 0, 3 and 6 have suffixes
  for (std::int64_t row = 0; row < plan.rows_per_step; ++row) {
    const Example example = FakeSampler().row({plan.policies[0].layout, 64, plan.seed, row});
    const std::vector<PolicySpec> policy = {PolicySpec::parse("full")};
    const std::int64_t own = pack_rows(std::span(&example, 1), policy, word_starts()).num_labels();
    expected += example.suffixes.empty() ? std::min<std::int64_t>(own, 3) : own;
  }
  EXPECT_DOUBLE_EQ(bounded.label_weight(), static_cast<double>(expected));
}

TEST(Loader, ErrorsInAThreadArrive) {
  FakeSampler sampler;
  sampler.bad_row = 20;  // of the third step
  for (const int num_threads : {1, 3}) {
    Loader loader(sampler, word_starts(), make_plan(), at::kCPU, 0, kNumSteps, num_threads);
    const auto error = error_of([&] {
      for (std::int64_t step = 0; step < kNumSteps; ++step) loader.next();
    });
    EXPECT_THAT(error, IsError(ErrorKind::input, "row 20 is damaged"));
    EXPECT_THAT(error_of([&] { loader.next(); }), IsError(ErrorKind::input, "row 20"));
  }
}

TEST(Loader, EndsWhileItsThreadsWork) {
  const FakeSampler sampler;
  for (int round = 0; round < 20; ++round) {
    Loader loader(sampler, word_starts(), make_plan(), at::kCPU, 0, 1000, 3);
    if (round % 2 == 0) loader.next();
  }
}

TEST(Loader, HasNothingBehindTheLastStep) {
  const FakeSampler sampler;
  Loader loader(sampler, word_starts(), make_plan(), at::kCPU, 0, 1, 1);
  loader.next();
  EXPECT_THAT(error_of([&] { loader.next(); }), IsError(ErrorKind::internal, "1 batches"));
}

TEST(RowPlan, TellsWhatCannotBeDivided) {
  const auto error = [](RowPlan plan) { return error_of([&] { plan.check(); }); };
  RowPlan plan = make_plan();
  EXPECT_FALSE(error(plan));
  plan.num_workers = 3;
  EXPECT_THAT(error(plan), IsError(ErrorKind::input, "multiple of 3"));
  plan.num_workers = 1;
  plan.num_micro_batches = 16;
  EXPECT_THAT(error(plan), IsError(ErrorKind::input, "16 micro-batches"));
  plan.num_micro_batches = 0;
  EXPECT_TRUE(error(plan));
  plan = make_plan();
  plan.policies.clear();
  EXPECT_THAT(error(plan), IsError(ErrorKind::input, "chunk sizes"));
}

TEST(RowPlan, MixesPolicies) {
  RowPlan plan = make_plan();
  std::vector<int> counts(3);
  for (std::int64_t row = 0; row < 3000; ++row) {
    for (std::size_t i = 0; i < counts.size(); ++i)
      counts[i] += &plan.policy(row / 8, row) == &plan.policies[i];
  }
  for (const int count : counts) EXPECT_NEAR(count, 1000, 100);  // some four standard deviations
  plan.mix = RowPlan::Mix::cycled_per_step;
  for (std::int64_t step = 0; step < 7; ++step) {
    for (std::int64_t row = 0; row < 8; ++row)
      EXPECT_EQ(&plan.policy(step, 8 * step + row), &plan.policies[step % 3]);
  }
}

}  // namespace
}  // namespace gsa::train
