#include "train/parameters.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/randn.h>
#include <gtest/gtest.h>

#include <cmath>

#include "model/test_models.h"
#include "support/errors.h"
#include "train/random_examples.h"
#include "train/rows.h"

namespace gsa::train {
namespace {

using model::LoraTarget;
using test::error_of;
using test::IsError;

at::Tensor parameter(const TrainedModel& trained, const std::string& name) {
  for (const Parameter& parameter : trained.parameters()) {
    if (parameter.name == name) return parameter.tensor;
  }
  ADD_FAILURE() << "no parameter " << name;
  return {};
}

PackedRows some_rows(const model::Model& model) {
  core::Rng rng(2);
  const Example example = random_example(rng, {40});
  const std::vector policies{attention::PolicySpec::parse("gsa@8")};
  return pack_rows({&example, 1}, policies, model.tokenizer().word_starts());
}

at::Tensor run(const model::Model& model) {
  const PackedRows rows = some_rows(model);
  const at::NoGradGuard no_grad;
  return model.forward(rows.batch);
}

/// An adapter after some training.
model::Adapter trained_adapter(const std::shared_ptr<const model::Model>& base,
                               const ParameterOptions& options) {
  const TrainedModel trained(base, options);
  const at::NoGradGuard no_grad;
  for (const Parameter& parameter : trained.parameters())
    parameter.tensor.add_(at::randn(parameter.tensor.sizes()), 0.1);
  return trained.adapter();
}

TEST(TrainedModel, SameSeedSameStart) {
  const auto base = test::load_test_model("llama-gqa");
  const TrainedModel a(base, {.rank = 4, .seed = 7}), b(base, {.rank = 4, .seed = 7}),
      c(base, {.rank = 4, .seed = 8});
  ASSERT_EQ(a.parameters().size(), 1 + 2 * 7 * 2U);
  for (std::size_t i = 0; i < a.parameters().size(); ++i) {
    const Parameter &one = a.parameters()[i], &other = c.parameters()[i];
    EXPECT_EQ(one.name, b.parameters()[i].name);
    EXPECT_TRUE(at::equal(one.tensor, b.parameters()[i].tensor)) << one.name;
    EXPECT_EQ(at::equal(one.tensor, other.tensor), !one.name.ends_with("lora_A")) << one.name;
  }
}

TEST(TrainedModel, StartsWhereTheBaseIs) {
  const auto base = test::load_test_model("llama-gqa");
  const TrainedModel trained(base, {.rank = 16});
  EXPECT_LT(test::relative_error(run(*trained.model()), run(*base)), 1e-5);
  const at::Tensor a = parameter(trained, "layers.1.down_proj.lora_A");  // N(0, 1 / in)
  const double expected = 1 / std::sqrt(static_cast<double>(a.size(1)));
  EXPECT_NEAR(a.std().item<double>() / expected, 1, 0.1);
  EXPECT_NEAR(a.mean().item<double>() / expected, 0, 0.1);
  EXPECT_EQ(trained.adapter().info.lora_scale(), 1);
  EXPECT_EQ(TrainedModel(base, {.rank = 16, .alpha = 8}).adapter().info.lora_scale(), 0.5);
}

TEST(TrainedModel, TrainsWhatItIsTold) {
  const auto base = test::load_test_model("qwen3");
  const TrainedModel gists(base, {.trained = Trained::gists, .num_gist_rows = 3});
  ASSERT_EQ(gists.parameters().size(), 1U);
  EXPECT_EQ(gists.parameters()[0].kind, Parameter::Kind::gist);
  EXPECT_EQ(gists.parameters()[0].tensor.size(0), 3);

  const TrainedModel some(base, {.rank = 2, .targets = {LoraTarget::v_proj}});
  EXPECT_EQ(some.parameters().size(), 1 + 2 * 2U);

  const TrainedModel full(base, {.trained = Trained::full});
  EXPECT_EQ(full.parameters().size(), base->named_tensors().size());
  for (const Parameter& parameter : full.parameters()) {
    const bool is_vector = parameter.tensor.dim() == 1;
    EXPECT_EQ(parameter.kind == Parameter::Kind::vector, is_vector) << parameter.name;
    EXPECT_TRUE(parameter.tensor.requires_grad());
  }
}

TEST(TrainedModel, StepsTakeEffectAndLeaveTheBaseAlone) {
  for (const Trained what : {Trained::lora, Trained::gists, Trained::full}) {
    for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {
      const auto base = test::load_test_model("llama-gqa", dtype);
      const at::Tensor before = run(*base);
      const TrainedModel trained(base, {.trained = what, .rank = 4});
      {
        const at::NoGradGuard no_grad;
        for (const Parameter& parameter : trained.parameters()) {
          EXPECT_EQ(parameter.tensor.scalar_type(), at::kFloat);
          EXPECT_TRUE(parameter.tensor.is_leaf());
          parameter.tensor.add_(at::ones_like(parameter.tensor), 0.1);
        }
      }
      EXPECT_TRUE(at::equal(run(*base), before));
      EXPECT_GT(test::relative_error(run(*trained.model()), before), 1e-3);
      EXPECT_EQ(trained.model()->dtype(), dtype);
    }
  }
}

TEST(TrainedModel, MastersGetTheGradientsOfTheirCopies) {
  const auto base = test::load_test_model("llama-gqa", at::kBFloat16);
  const TrainedModel trained(base, {.trained = Trained::full});
  const PackedRows rows = some_rows(*base);
  std::vector<at::Tensor> first;
  for (const bool recompute : {false, true}) {
    for (const Parameter& parameter : trained.parameters())
      parameter.tensor.mutable_grad() = at::Tensor();
    // The model is gone when backward runs, as in the trainer.
    trained.model()
        ->forward(rows.batch, {.rows = {}, .recompute = recompute})
        .to(at::kFloat)
        .square()
        .mean()
        .backward();
    for (const Parameter& parameter : trained.parameters()) {
      const at::Tensor grad = parameter.tensor.grad();
      ASSERT_TRUE(grad.defined()) << parameter.name;
      EXPECT_EQ(grad.scalar_type(), at::kFloat);
      EXPECT_GT(grad.abs().max().item<double>(), 0) << parameter.name;
      if (!recompute) {
        first.push_back(grad);
      } else {  // what is added up in bf16 may be in another order
        const at::Tensor& expected = first[&parameter - trained.parameters().data()];
        EXPECT_LT(test::relative_error(grad, expected), 1e-2) << parameter.name;
      }
    }
  }
}

TEST(TrainedModel, GoesOnFromAnAdapter) {
  at::manual_seed(3);
  const auto base = test::load_test_model("llama-gqa");
  const ParameterOptions options{.rank = 4, .alpha = 2, .num_gist_rows = 3};
  const model::Adapter adapter = trained_adapter(base, options);
  const at::Tensor expected = run(*base->with_adapter(adapter));
  for (const Trained what : {Trained::lora, Trained::gists}) {
    ParameterOptions other = options;
    other.trained = what;
    other.num_gist_rows = 1;  // the adapter's count
    other.alpha = 0;          // its scale, too
    const TrainedModel trained(base, other, &adapter);
    EXPECT_LT(test::relative_error(run(*trained.model()), expected), 1e-5);
    EXPECT_EQ(trained.adapter().info.num_gist_rows, 3);
    EXPECT_NE(parameter(trained, "gist_embeddings").data_ptr(), adapter.gist_embeddings.data_ptr());
  }
}

TEST(TrainedModel, GistsStartFromWhatIsAskedForOrTheAdapterHas) {
  const auto base = test::load_test_model("llama-gqa");
  using model::GistInput;
  for (const Trained what : {Trained::lora, Trained::gists, Trained::full}) {
    for (const GistInput input : model::kGistInputs) {
      const TrainedModel trained(base, {.trained = what, .rank = 4, .gist_input = input});
      EXPECT_EQ(trained.adapter().info.gist_input, input);
      EXPECT_EQ(trained.model()->gist_input(), input);
      if (what == Trained::full) continue;  // would lose the LoRA
      const model::Adapter adapter = trained_adapter(base, {.rank = 4, .gist_input = input});
      EXPECT_EQ(TrainedModel(base, {.trained = what, .rank = 4}, &adapter).model()->gist_input(),
                input);
    }
  }
  const TrainedModel row(base, {.rank = 4}),
      content(base, {.rank = 4, .gist_input = GistInput::content});
  EXPECT_GT(test::relative_error(run(*content.model()), run(*row.model())), 1e-3);
}

TEST(TrainedModel, RefusesAdaptersThatDoNotFit) {
  const auto base = test::load_test_model("llama-gqa");
  const auto error = [&](const ParameterOptions& options, const model::Adapter& adapter) {
    return error_of([&] { TrainedModel(base, options, &adapter); });
  };
  const model::Adapter adapter = trained_adapter(base, {.rank = 4});
  EXPECT_FALSE(error({.rank = 4}, adapter));
  EXPECT_THAT(error({.rank = 8}, adapter), IsError(ErrorKind::input, "--rank 4"));
  EXPECT_THAT(error({.rank = 4, .targets = {LoraTarget::q_proj}}, adapter),
              IsError(ErrorKind::input, "down_proj"));
  EXPECT_THAT(error({.trained = Trained::full}, adapter), IsError(ErrorKind::input, "LoRA"));
  model::Adapter partial = adapter;
  partial.loras.erase({1, LoraTarget::up_proj});
  EXPECT_THAT(error({.rank = 4}, partial),
              IsError(ErrorKind::input, "no LoRA on up_proj of layer 1"));
  const auto other = test::load_test_model("llama");
  EXPECT_THAT(error({.rank = 4}, trained_adapter(other, {.rank = 4})),
              IsError(ErrorKind::input, other->fingerprint()));
}

TEST(ParseTrained, KnowsItsNames) {
  for (const Trained trained : {Trained::lora, Trained::gists, Trained::full})
    EXPECT_EQ(parse_trained(trained_name(trained)), trained);
  EXPECT_THAT(error_of([] { parse_trained("all"); }),
              IsError(ErrorKind::input, "lora, gists or full"));
}

}  // namespace
}  // namespace gsa::train
