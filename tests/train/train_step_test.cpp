#include "train/train_step.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/log_softmax.h>
#include <ATen/ops/where.h>
#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <memory>
#include <optional>
#include <vector>

#include "attention/routing_loss.h"
#include "model/test_models.h"
#include "support/errors.h"
#include "train/loss.h"
#include "train/random_examples.h"

// A step's loss of labels and its routing loss.
namespace gsa::train {
namespace {

/// A model under training, and batches of a row each.
struct SmallStep {
  explicit SmallStep(Trained trained, double routing, double lr = 0)
      : model(test::load_test_model("llama-gqa"), {.trained = trained, .rank = 2}),
        communicator(Communicator::from_environment(at::kCPU)) {
    OptimizerOptions optimizer;
    optimizer.lr = optimizer.gist_lr = lr;
    step.emplace(model, *communicator, optimizer, StepOptions{.routing = routing});
  }

  TrainBatch batch(const char* policy, std::uint64_t seed, int num_suffixes) const {
    core::Rng rng(seed);
    const Example example = random_example(rng, {40, 90}, num_suffixes);
    return {pack_rows({&example, 1}, std::vector{attention::PolicySpec::parse(policy)},
                      model.base()->tokenizer().word_starts())};
  }

  TrainStep::Result run(std::span<const TrainBatch> batches) {
    double weight = 0;
    for (const TrainBatch& some : batches) weight += some.rows.label_weight();
    return step->run(batches, weight, num_steps++, 1);
  }

  TrainedModel model;
  std::unique_ptr<Communicator> communicator;
  std::optional<TrainStep> step;
  std::int64_t num_steps = 0;
};

constexpr std::int64_t kMaxBareWeight = 20;

/// Rows of text behind rows of questions.
TrainBatch mixed_batch(const SmallStep& step, const char* policy = "gsa@8") {
  core::Rng rng(41);
  std::vector<Example> examples;
  for (const int num_suffixes : {3, 2, 0, 0})
    examples.push_back(random_example(rng, {40, 70}, num_suffixes));
  const auto pack = [&](std::span<const Example> some, const char* how) {
    const std::vector<attention::PolicySpec> policies(some.size(),
                                                      attention::PolicySpec::parse(how));
    return pack_rows(some, policies, step.model.base()->tokenizer().word_starts(),
                     {.max_bare_weight = kMaxBareWeight});
  };
  const std::span<const Example> all = examples;
  return {pack(all, policy), pack(all.first(2), "full"), pack(all.subspan(2), "full")};
}

TEST(TrainStep, DistilsTextAndAnswersApart) {
  const SmallStep small(Trained::lora, 0);
  const auto base = small.model.base();
  for (const auto& [distill, bare_distill] : {std::pair(0.0, 1.0), {0.25, 1.0}, {0.5, 0.5}}) {
    TrainedModel model(base, {.trained = Trained::lora, .rank = 2});
    TrainStep step(model, *small.communicator, {.lr = 0, .gist_lr = 0},
                   {.distill = distill, .bare_distill = bare_distill});
    const TrainBatch batch = mixed_batch(small);
    const PackedRows& rows = batch.rows;
    const std::int64_t num_asked = rows.num_asked_labels();
    ASSERT_GT(num_asked, 0);
    std::vector<double> weights(static_cast<std::size_t>(num_asked), 1);
    for (const auto& text : {rows.contexts[2], rows.contexts[3]}) {
      ASSERT_GT(std::ssize(text) - 1, kMaxBareWeight);
      const double weight = kMaxBareWeight / static_cast<double>(text.size() - 1);
      weights.insert(weights.end(), text.size() - 1, weight);
    }
    ASSERT_EQ(std::ssize(weights), rows.num_labels());
    const double total = static_cast<double>(num_asked) + 2.0 * kMaxBareWeight;
    EXPECT_DOUBLE_EQ(rows.label_weight(), total);
    const double loss = step.run({&batch, 1}, total, 0, 1).loss.item<double>();

    const at::NoGradGuard no_grad;
    const auto log_p = [&](const model::Model& of, const PackedRows& some) {
      return at::log_softmax(
          at::linear(of.forward(some.batch, {.rows = some.rows}), TrainedModel::output_weight(of)),
          -1, at::kDouble);
    };
    const at::Tensor ours = log_p(*model.model(), rows);
    const at::Tensor theirs =
        at::cat({log_p(*base, *batch.plain_asked), log_p(*base, *batch.plain_bare)});
    double expected = 0;
    for (std::int64_t i = 0; i < rows.num_labels(); ++i) {
      const double share = i < num_asked ? distill : bare_distill;
      const double label = ours[i][rows.labels[i].item<std::int64_t>()].item<double>();
      const double distance = theirs[i].exp().mul(theirs[i].sub(ours[i])).sum().item<double>();
      expected += weights[static_cast<std::size_t>(i)] * (share * distance - (1 - share) * label);
    }
    EXPECT_NEAR(loss, expected / total, 1e-5 * (1 + std::abs(expected / total)));
  }
}

TEST(TrainStep, AnswersAndTextHaveTheirOwnTeachers) {
  const SmallStep small(Trained::lora, 0);
  const auto base = small.model.base();
  // A teacher that is the base with other gists and LoRA, as training makes it.
  SmallStep pupil(Trained::lora, 0, 0.05);
  const TrainBatch batch = mixed_batch(small);
  for (int i = 0; i < 5; ++i) pupil.run({&batch, 1});
  const auto teacher = base->with_adapter(pupil.model.adapter());
  using Taught = std::shared_ptr<const model::Model>;
  const auto distance = [&](const Taught& of_answers, const Taught& of_text) {
    TrainedModel model(base, {.trained = Trained::lora, .rank = 2});
    TrainStep step(
        model, *small.communicator, {.lr = 0, .gist_lr = 0},
        {.distill = 1, .bare_distill = 1, .teacher = of_answers, .bare_teacher = of_text});
    const TrainBatch full = mixed_batch(small, "full");
    return step.run({&full, 1}, full.rows.label_weight(), 0, 1).loss.item<double>();
  };
  EXPECT_NEAR(distance(nullptr, nullptr), 0, 1e-6);  // the model starts as the base
  const double answers = distance(teacher, nullptr), text = distance(nullptr, teacher);
  EXPECT_GT(answers, 1e-3);
  EXPECT_GT(text, 1e-3);
  EXPECT_NEAR(distance(teacher, teacher), answers + text, 1e-5);
}

TEST(TrainStep, PullsEveryLabelToItsPlainViewByItsWeight) {
  const SmallStep small(Trained::lora, 0);
  const auto loss_of = [&](double plain_view, const TrainBatch& batch) {
    TrainedModel model(small.model.base(), {.trained = Trained::lora, .rank = 2});
    TrainStep step(model, *small.communicator, {.lr = 0, .gist_lr = 0}, {.plain_view = plain_view});
    return step.run({&batch, 1}, batch.rows.label_weight(), 0, 1).loss.item<double>();
  };
  const TrainBatch batch = mixed_batch(small);
  const PackedRows& rows = batch.rows;
  const auto model = small.model.model();
  const at::NoGradGuard no_grad;
  const at::Tensor plain =
      at::cat({model->forward(batch.plain_asked->batch, {.rows = batch.plain_asked->rows}),
               model->forward(batch.plain_bare->batch, {.rows = batch.plain_bare->rows})});
  const at::Tensor distance = model->forward(rows.batch, {.rows = rows.rows}).sub(plain).abs();
  const at::Tensor pulls =
      at::where(distance.lt(1), distance.square().mul(0.5), distance.sub(0.5)).mean(1);
  double expected = 0;
  std::int64_t label = 0;
  for (; label < rows.num_asked_labels(); ++label) expected += pulls[label].item<double>();
  for (const BareLabels& bare : rows.bare_labels)
    for (std::int64_t i = 0; i < bare.count; ++i)
      expected += bare.weight * pulls[label++].item<double>();
  expected *= 3 / rows.label_weight();
  EXPECT_NEAR(loss_of(3, batch) - loss_of(0, batch), expected, 1e-4 * expected);
  EXPECT_GT(expected, 1e-3);
}

class RoutingStep : public testing::TestWithParam<std::pair<const char*, Trained>> {};

TEST_P(RoutingStep, DrawsGistsToAttention) {
  const auto [policy, trained] = GetParam();
  SmallStep training(trained, /*routing=*/5, /*lr=*/0.02);
  const std::array batches = {training.batch(policy, 31, 4)};
  const auto first = training.run(batches);
  for (int i = 0; i < 20; ++i) training.run(batches);
  const auto last = training.run(batches);
  EXPECT_GT(first.routing.item<double>(), 0);
  EXPECT_LT(last.routing.item<double>(), 0.8 * first.routing.item<double>());
}

INSTANTIATE_TEST_SUITE_P(Rows, RoutingStep,
                         testing::Values(std::pair("gsa@8", Trained::gists),
                                         std::pair("gsa@4-4", Trained::gists),
                                         std::pair("gsa@8", Trained::lora),
                                         std::pair("gsa@4-4", Trained::lora)));

TEST(TrainStep, LossIsThatOfTheLabelsWhateverRouting) {
  SmallStep with(Trained::lora, 2), without(Trained::lora, 0);
  const std::array batches = {without.batch("gsa@4", 32, 3)};
  const auto expected = without.run(batches), actual = with.run(batches);
  EXPECT_TRUE(at::equal(actual.loss, expected.loss));
  EXPECT_EQ(expected.routing.item<float>(), 0);
  EXPECT_GT(actual.routing.item<float>(), 0);
  EXPECT_NE(actual.norm.item<float>(), expected.norm.item<float>());

  const PackedRows& rows = batches[0].rows;
  const auto model = without.model.model();
  const at::Tensor plain = token_loss(model->forward(rows.batch, {.rows = rows.rows}),
                                      TrainedModel::output_weight(*model), rows.labels,
                                      1 / static_cast<double>(rows.num_labels()));
  EXPECT_TRUE(at::equal(expected.loss, plain.detach()));  // the learning rate was 0
}

TEST(TrainStep, TextWithoutQuestionsHasNoRouting) {
  SmallStep with(Trained::lora, 2, 0.01), without(Trained::lora, 0, 0.01);
  const std::array batches = {without.batch("gsa@4", 33, 0)};
  for (int i = 0; i < 2; ++i) {
    const auto expected = without.run(batches), actual = with.run(batches);
    EXPECT_TRUE(at::equal(actual.loss, expected.loss) && at::equal(actual.norm, expected.norm));
    EXPECT_EQ(actual.routing.item<float>(), 0);
  }
}

TEST(TrainStep, BareRowsHaveNoWeightInRouting) {
  SmallStep small(Trained::lora, 1);
  const TrainBatch mixed = mixed_batch(small);
  core::Rng rng(41);
  std::vector<TrainBatch> apart;  // the same rows: questions, text
  for (const std::vector<int>& some : {std::vector{3, 2}, {0, 0}}) {
    std::vector<Example> examples;
    for (const int num_suffixes : some)
      examples.push_back(random_example(rng, {40, 70}, num_suffixes));
    const std::vector<attention::PolicySpec> policies(2, attention::PolicySpec::parse("gsa@8"));
    apart.push_back({pack_rows(examples, policies, small.model.base()->tokenizer().word_starts(),
                               {.max_bare_weight = kMaxBareWeight}),
                     {},
                     {}});
  }
  const auto together = small.run({&mixed, 1}), divided = small.run(apart);
  EXPECT_NEAR(together.loss.item<double>(), divided.loss.item<double>(), 1e-5);
  EXPECT_GT(divided.routing.item<double>(), 0);
  EXPECT_NEAR(together.routing.item<double>(), divided.routing.item<double>(), 1e-5);
}

TEST(TrainStep, RoutingRefusesLayersThatRunTwice) {
  SmallStep step(Trained::lora, 1);
  const TrainBatch batch = step.batch("gsa@4", 36, 2);
  attention::RoutingLoss routing;
  EXPECT_THAT(test::error_of([&] {
                step.model.model()->forward(batch.rows.batch,
                                            {.rows = {}, .recompute = true, .routing = &routing});
              }),
              test::IsError(ErrorKind::internal, "routing"));
}

TEST(TrainStep, MicroBatchesWeighInRoutingByTheirLabels) {
  SmallStep step(Trained::lora, 1);
  std::vector<TrainBatch> batches;
  batches.push_back(step.batch("gsa@4", 34, 1));
  batches.push_back(step.batch("gsa@4-4", 35, 5));
  const auto both = step.run(batches);
  double expected = 0, num_labels = 0;
  for (const TrainBatch& batch : batches) {
    const auto labels = static_cast<double>(batch.rows.num_labels());
    expected += labels * step.run({&batch, 1}).routing.item<double>();
    num_labels += labels;
  }
  EXPECT_NEAR(both.routing.item<double>(), expected / num_labels, 1e-6 * expected);
}

}  // namespace
}  // namespace gsa::train
