#include <ATen/core/grad_mode.h>
#include <ATen/ops/cross_entropy_loss.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/randn.h>
#include <gtest/gtest.h>

#include <string>

#include "model/test_models.h"

namespace gsa::model {
namespace {

using test::load_test_model;

/// Loss of a question after a document that gists fold, as a function of an adapter's tensors.
class AdapterLoss {
 public:
  explicit AdapterLoss(GistInput gist_input) {
    adapter_.info.gist_input = gist_input;
    adapter_.info.base_fingerprint = base_->fingerprint();
    adapter_.info.num_gist_rows = 2;
    adapter_.info.lora_rank = 3;
    adapter_.info.lora_alpha = 3;
    adapter_.info.lora_targets.assign(kLoraTargets.begin(), kLoraTargets.end());
    adapter_.gist_embeddings = at::randn({2, base_->config().hidden}).requires_grad_(true);
    for (std::int64_t layer = 0; layer < base_->config().num_layers; ++layer) {
      for (const LoraTarget target : kLoraTargets) {
        const auto [out, in] = lora_target_shape(base_->config(), target);
        adapter_.loras[{layer, target}] = {at::randn({3, in}).mul(0.2).requires_grad_(true),
                                           at::randn({out, 3}).mul(0.2).requires_grad_(true)};
      }
    }
    model_ = base_->with_adapter(adapter_);
  }

  at::Tensor operator()() const {
    const at::Tensor logits = row_.logits(*model_);
    return at::cross_entropy_loss(logits.slice(0, 0, -1), question_.slice(0, 1));
  }

  /// Slope along a direction by finite differences. The weights are f32, so the step is large and
  /// the quotient is taken of two of them (Richardson).
  double slope(const at::Tensor& parameter, const at::Tensor& direction) const {
    const at::NoGradGuard no_grad;
    const auto quotient = [&](double step) {
      const at::Tensor before = parameter.clone();
      parameter.add_(direction, step);
      const double up = (*this)().item<double>();
      parameter.copy_(before).sub_(direction, step);
      const double down = (*this)().item<double>();
      parameter.copy_(before);
      return (up - down) / (2 * step);
    };
    return (4 * quotient(0.01) - quotient(0.02)) / 3;
  }

  Adapter adapter_;

 private:
  std::shared_ptr<const Model> base_ = load_test_model("llama-gqa");
  std::shared_ptr<const Model> model_;
  at::Tensor document_ = at::randint(3, 300, {60}, at::kLong);
  at::Tensor question_ = at::randint(3, 300, {20}, at::kLong);
  // A budget that covers every chunk: a selection that flips within a step would make the loss
  // jump.
  test::TrainingRow row_{*base_, "gsa@4-4:tokens=4096", document_, question_};
};

class Gradient : public testing::TestWithParam<GistInput> {};

TEST_P(Gradient, OfTheLossEqualsFiniteDifferences) {
  AdapterLoss loss(GetParam());
  loss().backward();
  const auto check = [&](const at::Tensor& parameter, const std::string& name) {
    ASSERT_TRUE(parameter.grad().defined()) << name;
    // Along the gradient, where the slope is its norm.
    const double norm = parameter.grad().norm().item<double>();
    ASSERT_GT(norm, 1e-4) << name;
    const at::Tensor direction = parameter.grad().div(norm);
    EXPECT_NEAR(loss.slope(parameter, direction) / norm, 1, 2e-2) << name;
  };
  check(loss.adapter_.gist_embeddings, "gist_embeddings");
  for (const auto& [key, factors] : loss.adapter_.loras) {
    const std::string name =
        std::to_string(key.first) + "." + std::string(lora_target_name(key.second));
    check(factors.a, name + ".A");
    check(factors.b, name + ".B");
  }
}

INSTANTIATE_TEST_SUITE_P(GistInputs, Gradient, testing::ValuesIn(kGistInputs),
                         [](const auto& info) { return std::string(gist_input_name(info.param)); });

TEST(GradientOfTheBase, ReachesEveryWeight) {
  const auto model = load_test_model("qwen3");
  for (const auto& [name, tensor] : model->named_tensors()) tensor.requires_grad_(true);
  const at::Tensor document = at::randint(3, 300, {60}, at::kLong);
  const at::Tensor question = at::randint(3, 300, {20}, at::kLong);
  const test::TrainingRow row(*model, "gsa@4", document, question);
  row.logits(*model).square().mean().backward();
  for (const auto& [name, tensor] : model->named_tensors()) {
    ASSERT_TRUE(tensor.grad().defined()) << name;
    EXPECT_GT(tensor.grad().abs().max().item<double>(), 0) << name;
  }
}

}  // namespace
}  // namespace gsa::model
