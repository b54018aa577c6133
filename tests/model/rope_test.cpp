#include "model/rope.h"

#include <ATen/ops/arange.h>
#include <ATen/ops/full.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/randn.h>
#include <gtest/gtest.h>

#include <cmath>

#include "model/test_models.h"

namespace gsa::model {
namespace {

ModelConfig config_of(RopeScaling::Kind kind) {
  ModelConfig config;
  config.head_dim = 64;
  config.rope_theta = 10000;
  config.trained_window = 4096;
  config.rope_scaling.kind = kind;
  config.rope_scaling.factor = 8;
  config.rope_scaling.original_window = 512;
  return config;
}

TEST(Rope, RotatesEveryPairByPositionTimesFrequency) {
  const ModelConfig config = config_of(RopeScaling::Kind::none);
  const at::Tensor x = at::ones({3, 1, 64});
  const at::Tensor rotated =
      apply_rope(x, rope_table(at::arange(0, 300, 100, at::kLong), rope_inv_freq(config), 1), 1);
  for (std::int64_t row = 0; row < 3; ++row) {
    for (std::int64_t i = 0; i < 32; ++i) {
      const double angle = 100.0 * static_cast<double>(row) * std::pow(10000.0, -2.0 * i / 64.0);
      // f32 angles of a few hundred are exact to about 3e-5.
      EXPECT_NEAR(rotated[row][0][i].item<double>(), std::cos(angle) - std::sin(angle), 1e-4);
      EXPECT_NEAR(rotated[row][0][i + 32].item<double>(), std::cos(angle) + std::sin(angle), 1e-4);
    }
  }
}

TEST(Rope, ScoresDependOnDistanceOnly) {
  const at::Tensor inv_freq = rope_inv_freq(config_of(RopeScaling::Kind::yarn));
  const at::Tensor q = at::randn({1, 2, 64});
  const at::Tensor k = at::randn({1, 2, 64});
  const auto score = [&](std::int64_t q_position, std::int64_t k_position) {
    const auto at_position = [&](const at::Tensor& x, std::int64_t position) {
      return apply_rope(x, rope_table(at::full({1}, position, at::kLong), inv_freq, 1), x.size(1));
    };
    return at_position(q, q_position).mul(at_position(k, k_position)).sum().item<double>();
  };
  EXPECT_NEAR(score(17, 5), score(1017, 1005), 2e-3);
  EXPECT_GT(std::abs(score(17, 5) - score(17, 6)), 1e-2);
}

TEST(Rope, StretchingKeepsFastDimensionsAndDividesSlowOnes) {
  const at::Tensor plain = rope_inv_freq(config_of(RopeScaling::Kind::none));
  for (const auto kind : {RopeScaling::Kind::llama3, RopeScaling::Kind::yarn}) {
    const at::Tensor ratio = plain.div(rope_inv_freq(config_of(kind)));
    EXPECT_NEAR(ratio[0].item<double>(), 1, 1e-6);
    EXPECT_NEAR(ratio[31].item<double>(), 8, 1e-5);
    EXPECT_TRUE(ratio.slice(0, 1).ge(ratio.slice(0, 0, 31)).all().item<bool>());
  }
  const at::Tensor linear = plain.div(rope_inv_freq(config_of(RopeScaling::Kind::linear)));
  EXPECT_NEAR(linear.min().item<double>(), 8, 1e-5);
  EXPECT_NEAR(linear.max().item<double>(), 8, 1e-5);
}

TEST(Rope, KeepsTheDtypeAndRoundsOnce) {
  const at::Tensor x = at::randn({5, 3, 64});
  const RopeTable table = rope_table(at::arange(1000, 1005, at::kLong),
                                     rope_inv_freq(config_of(RopeScaling::Kind::none)), 1);
  const at::Tensor half = x.to(at::kBFloat16);
  const at::Tensor rotated = apply_rope(half, table, half.size(1));
  EXPECT_EQ(rotated.scalar_type(), at::kBFloat16);
  EXPECT_TRUE(
      rotated.equal(apply_rope(half.to(at::kFloat), table, half.size(1)).to(at::kBFloat16)));
}

TEST(Rope, LeavesOtherHeadsAloneAndTurnsGradientsBack) {
  const RopeTable table =
      rope_table(at::arange(5, at::kLong), rope_inv_freq(config_of(RopeScaling::Kind::none)), 1);
  const at::Tensor x = at::randn({5, 3, 64}).requires_grad_(true);
  const at::Tensor rotated = apply_rope(x, table, 2);
  EXPECT_TRUE(rotated.narrow(1, 2, 1).equal(x.narrow(1, 2, 1)));
  EXPECT_TRUE(rotated.narrow(1, 0, 2).equal(apply_rope(x.detach().narrow(1, 0, 2), table, 2)));
  // A rotation keeps lengths, so the gradient of the squared length is that of the unrotated one.
  rotated.pow(2).sum().backward();
  EXPECT_TRUE(x.grad().allclose(x.detach().mul(2), 1e-5, 1e-5));
}

}  // namespace
}  // namespace gsa::model
