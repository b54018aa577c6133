#include "train/train_step.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/equal.h>
#include <gtest/gtest.h>

#include <array>
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
                      model.base()->tokenizer().word_starts()),
            std::nullopt};
  }

  TrainStep::Result run(std::span<const TrainBatch> batches) {
    double num_labels = 0;
    for (const TrainBatch& some : batches)
      num_labels += static_cast<double>(some.rows.num_labels());
    return step->run(batches, num_labels, num_steps++, 1);
  }

  TrainedModel model;
  std::unique_ptr<Communicator> communicator;
  std::optional<TrainStep> step;
  std::int64_t num_steps = 0;
};

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
