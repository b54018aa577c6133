#include "train/checkpoint.h"

#include <ATen/ops/equal.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/zeros_like.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "core/log.h"
#include "model/test_models.h"
#include "support/errors.h"

namespace gsa::train {
namespace {

using test::error_of;
using test::IsError;

NamedTensors random_tensors() {
  return {{"parameter.a", at::randn({3, 4})},
          {"moment.a", at::randn({3, 4})},
          {"parameter.b", at::randn({5})}};
}

NamedTensors zeros(const NamedTensors& like) {
  NamedTensors all;
  for (const auto& [name, tensor] : like) all.emplace_back(name, at::zeros_like(tensor));
  return all;
}

bool equal(const NamedTensors& a, const NamedTensors& b) {
  for (std::size_t i = 0; i < a.size(); ++i)
    if (!at::equal(a[i].second, b[i].second)) return false;
  return true;
}

RunState state_at(std::int64_t step) {
  return {.step = step,
          .next_row = step * 8,
          .num_tokens = 1000 * step,
          .num_raw = 900 * step,
          .seconds = 0.1 * static_cast<double>(step),
          .mean_loss = 1.0 / 3};
}

class CheckpointTest : public testing::Test {
 protected:
  CheckpointTest() {
    core::set_warning_handler([this](const std::string& text) { warnings.push_back(text); });
  }
  ~CheckpointTest() override { core::set_warning_handler({}); }

  std::filesystem::path file(std::int64_t step) const {
    std::string digits = std::to_string(step);
    digits.insert(0, 10 - digits.size(), '0');
    return folder.path() / ("step-" + digits + ".safetensors");
  }
  std::int64_t num_files() const {
    return std::distance(std::filesystem::directory_iterator(folder.path()), {});
  }

  test::TempDir folder;
  std::vector<std::string> warnings;
};

TEST_F(CheckpointTest, GivesBackWhatWasSaved) {
  const Checkpoints checkpoints(folder.path(), "recipe");
  const NamedTensors saved = random_tensors(), restored = zeros(saved);
  EXPECT_FALSE(checkpoints.any());
  EXPECT_FALSE(checkpoints.restore(restored));
  checkpoints.save(state_at(7), saved);
  EXPECT_TRUE(checkpoints.any());
  EXPECT_EQ(checkpoints.restore(restored), state_at(7));
  EXPECT_TRUE(equal(saved, restored));
}

TEST_F(CheckpointTest, KeepsTheNewestTwo) {
  const Checkpoints checkpoints(folder.path(), "recipe");
  for (const std::int64_t step : {9, 10, 11, 100})
    checkpoints.save(state_at(step), random_tensors());
  EXPECT_EQ(num_files(), 2);
  EXPECT_EQ(checkpoints.restore(random_tensors())->step, 100);
}

TEST_F(CheckpointTest, RemovesWhatAKilledProcessLeftHalfWritten) {
  const Checkpoints checkpoints(folder.path(), "recipe");
  test::write_bytes(file(3).string() + ".4711-0.tmp", "half");
  test::write_bytes(folder.path() / "notes.tmp", "mine");
  EXPECT_FALSE(checkpoints.any());
  checkpoints.save(state_at(4), random_tensors());
  EXPECT_EQ(num_files(), 2);
  EXPECT_TRUE(std::filesystem::exists(folder.path() / "notes.tmp"));
}

TEST_F(CheckpointTest, EveryDamageIsFoundAndTheOlderOneTaken) {
  const Checkpoints checkpoints(folder.path(), "recipe");
  const NamedTensors older = random_tensors();
  checkpoints.save(state_at(1), older);
  checkpoints.save(state_at(2), random_tensors());
  const std::string whole = test::read_bytes(file(2));
  const auto restored_step = [&](const std::string& bytes) {
    test::write_bytes(file(2), bytes);
    warnings.clear();
    const NamedTensors restored = zeros(older);
    const auto state = checkpoints.restore(restored);
    EXPECT_EQ(equal(restored, older), state->step == 1);
    EXPECT_EQ(warnings.size(), state->step == 1 ? 1 : 0);
    return state->step;
  };
  for (std::size_t len = 0; len < whole.size(); len += 41)
    EXPECT_EQ(restored_step(whole.substr(0, len)), 1) << "cut at " << len;
  for (std::size_t place = 0; place < whole.size(); place += 13) {
    std::string damaged = whole;
    damaged[place] = static_cast<char>(damaged[place] ^ 0x10);
    EXPECT_EQ(restored_step(damaged), 1) << "flipped at " << place;
  }
  EXPECT_EQ(restored_step(whole), 2);
}

TEST_F(CheckpointTest, SaysSoIfNoneIsWhole) {
  const Checkpoints checkpoints(folder.path(), "recipe");
  checkpoints.save(state_at(1), random_tensors());
  test::write_bytes(file(1), "nonsense");
  EXPECT_THAT(error_of([&] { checkpoints.restore(random_tensors()); }),
              IsError(ErrorKind::input, "no checkpoint"));
}

TEST_F(CheckpointTest, RefusesOtherRecipesAndShapes) {
  const Checkpoints checkpoints(folder.path(), "cpt rows=8 lr=0.004");
  checkpoints.save(state_at(1), random_tensors());
  const Checkpoints other(folder.path(), "cpt rows=8 lr=0.001");
  EXPECT_THAT(error_of([&] { other.restore(random_tensors()); }),
              IsError(ErrorKind::input, "'lr=0.004', this run has 'lr=0.001'"));
  NamedTensors others = random_tensors();
  others[1].second = at::randn({4, 3});
  EXPECT_THAT(error_of([&] { checkpoints.restore(others); }),
              IsError(ErrorKind::input, "moment.a"));
}

}  // namespace
}  // namespace gsa::train
