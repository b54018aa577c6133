#include "train/trainer.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/equal.h>
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <cmath>
#include <csignal>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "core/log.h"
#include "core/rng.h"
#include "model/test_models.h"
#include "support/errors.h"
#include "train/rows.h"

namespace gsa::train {
namespace {

using test::error_of;
using test::IsError;

constexpr std::int64_t num_steps = 6;

/// Rows of few different tokens, so that there is something to learn.
class RandomText : public Sampler {
 public:
  Example row(const RowRequest& request) const override {
    core::Rng rng(request.seed, static_cast<std::uint64_t>(request.index));
    std::vector<std::int32_t> tokens;
    for (std::int64_t i = 0; i < request.max_tokens / 2; ++i)
      tokens.push_back(static_cast<std::int32_t>(40 + rng.below(6)));
    return {{std::move(tokens)}, {}};
  }
};

/// One training of a small model with everything it needs.
struct SmallRun {
  explicit SmallRun(const std::filesystem::path& out, double lr = 0.01,
                    Trained trained = Trained::lora)
      : model(test::load_test_model("llama"), {.trained = trained, .rank = 2}),
        communicator(Communicator::from_environment(at::kCPU)) {
    options.out = out;
    options.schedule = {.num_steps = num_steps, .warmup = 0.1};
    options.rows.policies = {row_policy(attention::ChunkSizes::parse("4"), {}), row_policy({}, {})};
    options.rows.rows_per_step = 4;
    options.rows.num_micro_batches = 2;
    options.rows.row_len = 64;
    options.optimizer.lr = lr;
    options.eval_every = 2;
    options.eval_policies = options.rows.policies;
    options.recipe = "test";
  }

  void make() {
    trainer.emplace(model, sampler, std::vector<Example>{sampler.row({{}, 64, 1, 0})}, options,
                    *communicator);
  }
  /// Trains until `last_step` is done.
  Outcome run(std::int64_t last_step = num_steps) {
    if (!trainer) make();
    std::stop_source source;
    return trainer->run(
        source.get_token(),
        [&](const StepRecord& record) {
          losses.push_back(record.loss);
          if (record.step == last_step && last_step < num_steps) source.request_stop();
        },
        [&](std::int64_t step, const Scores& scores) { evaluations.emplace_back(step, scores); });
  }

  TrainedModel model;
  RandomText sampler;
  std::unique_ptr<Communicator> communicator;
  TrainOptions options;
  std::optional<Trainer> trainer;
  std::vector<double> losses;
  std::vector<std::pair<std::int64_t, Scores>> evaluations;
};

void expect_same_weights(const SmallRun& a, const SmallRun& b) {
  ASSERT_EQ(a.model.parameters().size(), b.model.parameters().size());
  for (std::size_t i = 0; i < a.model.parameters().size(); ++i) {
    EXPECT_TRUE(at::equal(a.model.parameters()[i].tensor, b.model.parameters()[i].tensor))
        << a.model.parameters()[i].name;
  }
}

TEST(Trainer, ResumesBitForBit) {
  for (const Trained trained : {Trained::lora, Trained::gists, Trained::full}) {
    const test::TempDir folder;
    SmallRun whole(folder.path() / "whole", 0.01, trained);
    EXPECT_EQ(whole.run(), Outcome::finished);
    EXPECT_EQ(whole.losses.size(), static_cast<std::size_t>(num_steps));

    SmallRun first(folder.path() / "parts", 0.01, trained),
        second(folder.path() / "parts", 0.01, trained);
    EXPECT_EQ(first.run(3), Outcome::interrupted);
    EXPECT_EQ(first.trainer->state().step, 3);
    second.make();
    ASSERT_TRUE(second.trainer->resume());
    EXPECT_EQ(second.run(), Outcome::finished);
    expect_same_weights(whole, second);
    first.losses.insert(first.losses.end(), second.losses.begin(), second.losses.end());
    EXPECT_EQ(first.losses, whole.losses);
    EXPECT_EQ(whole.trainer->scores(), second.trainer->scores());
    EXPECT_EQ(whole.trainer->state().mean_loss, second.trainer->state().mean_loss);
  }
}

TEST(Trainer, LossFallsAndIsScoredFromBeginToEnd) {
  const test::TempDir folder;
  SmallRun run(folder.path(), 0.03);
  run.run();
  ASSERT_EQ(run.evaluations.size(), 4u);  // before step 1, and after 2, 4 and 6
  EXPECT_EQ(run.evaluations.back().first, num_steps);
  for (const std::size_t policy : {0, 1}) {
    EXPECT_LT(run.evaluations.back().second[policy].second,
              run.evaluations.front().second[policy].second - 0.3);
  }
  EXPECT_EQ(run.evaluations.front().second[0].first, "4");
  EXPECT_EQ(run.evaluations.front().second[1].first, "full");
}

TEST(Trainer, StartsAnewWithoutCheckpoint) {
  const test::TempDir folder;
  SmallRun run(folder.path() / "none");
  run.make();
  EXPECT_FALSE(run.trainer->resume());
}

TEST(Trainer, NamesStepAndRowsOfALossThatIsNotFinite) {
  const test::TempDir folder;
  SmallRun run(folder.path());
  run.make();
  {
    const at::NoGradGuard no_grad;
    run.model.parameters()[0].tensor.fill_(NAN);
  }
  EXPECT_THAT(error_of([&] { run.run(); }), IsError(ErrorKind::resource, "step 1: loss nan"));
  EXPECT_FALSE(Checkpoints(folder.path() / "checkpoints", "").any());
}

TEST(Trainer, NamesStepAndRowsOfASpike) {
  const test::TempDir folder;
  SmallRun run(folder.path(), 30);  // far too high
  run.options.optimizer.gist_lr = 30;
  run.options.max_spike = 0.5;
  const auto error = error_of([&] { run.run(); });
  EXPECT_THAT(error, IsError(ErrorKind::resource, "lower the learning rate"));
  EXPECT_THAT(error, IsError(ErrorKind::resource, "step 3"));
  EXPECT_THAT(error, IsError(ErrorKind::resource, "rows 8 to 11"));
}

/// Files of this process may not grow beyond so many bytes while it lives.
class SmallDisk {
 public:
  explicit SmallDisk(rlim_t max_bytes) {
    std::signal(SIGXFSZ, SIG_IGN);
    getrlimit(RLIMIT_FSIZE, &before_);
    const rlimit limit{max_bytes, before_.rlim_max};
    setrlimit(RLIMIT_FSIZE, &limit);
  }
  ~SmallDisk() { setrlimit(RLIMIT_FSIZE, &before_); }

 private:
  rlimit before_{};
};

TEST(Trainer, AFullDiskKeepsTheOldCheckpointAndTheRun) {
  const test::TempDir folder;
  std::vector<std::string> warnings;
  core::set_warning_handler([&](const std::string& text) { warnings.push_back(text); });
  {
    SmallRun first(folder.path());
    first.run(2);
  }
  const auto file = folder.path() / "checkpoints" / "step-0000000002.safetensors";
  const std::string before = test::read_bytes(file);
  SmallRun run(folder.path());
  run.options.save_minutes = 0;
  run.make();
  ASSERT_TRUE(run.trainer->resume());
  {
    const SmallDisk disk(4096);  // enough for the log
    EXPECT_EQ(run.run(), Outcome::finished);
  }
  core::set_warning_handler({});
  EXPECT_GE(warnings.size(), 4u);
  EXPECT_NE(warnings.at(0).find("no checkpoint at step 3"), std::string::npos) << warnings.at(0);
  EXPECT_EQ(test::read_bytes(file), before);
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder.path() / "checkpoints"), {}),
            1);
  const test::TempDir undisturbed;
  SmallRun whole(undisturbed.path());
  whole.run();
  expect_same_weights(whole, run);
}

TEST(Trainer, AStoppedRunThatCannotBeSavedIsAnError) {
  const test::TempDir folder;
  SmallRun run(folder.path());
  run.make();
  const SmallDisk disk(4096);
  EXPECT_THAT(error_of([&] { run.run(2); }), IsError(ErrorKind::resource, "step-0000000002"));
}

TEST(Trainer, TheLogHasEveryStepOnce) {
  const test::TempDir folder;
  {
    SmallRun first(folder.path());
    first.options.save_minutes = 0;
    first.run(4);
  }
  std::filesystem::remove(folder.path() / "checkpoints" / "step-0000000004.safetensors");
  std::ofstream(folder.path() / "log.jsonl", std::ios::app) << "{\"step\": 5, \"lo";
  SmallRun second(folder.path());
  second.make();
  ASSERT_TRUE(second.trainer->resume());
  EXPECT_EQ(second.trainer->state().step, 3);
  second.run();
  std::ifstream log(folder.path() / "log.jsonl");
  std::vector<int> losses(num_steps + 1), evaluations(num_steps + 1);
  for (std::string line; std::getline(log, line);) {
    const int step = std::stoi(line.substr(line.find(':') + 1));
    ++(line.find("\"eval\"") == std::string::npos ? losses : evaluations).at(step);
  }
  EXPECT_EQ(losses, (std::vector<int>{0, 1, 1, 1, 1, 1, 1}));
  EXPECT_EQ(evaluations, (std::vector<int>{1, 0, 1, 0, 1, 0, 1}));
}

}  // namespace
}  // namespace gsa::train
