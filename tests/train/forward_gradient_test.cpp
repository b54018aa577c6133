#include <ATen/core/grad_mode.h>
#include <ATen/ops/randn.h>
#include <c10/util/irange.h>
#include <gtest/gtest.h>

#include <cmath>
#include <optional>
#include <ostream>
#include <string>

#include "attention/allocation_meter.h"
#include "model/test_models.h"
#include "support/errors.h"
#include "train/loss.h"
#include "train/parameters.h"
#include "train/random_examples.h"
#include "train/rows.h"

// Gradients through layout, packing, the whole model and the loss.
namespace gsa::train {
namespace {

struct Case {
  const char* name;
  const char* policy;
  std::vector<std::int64_t> piece_lens;
  int num_suffixes = 0;
  model::GistInput gist_input = model::GistInput::row;
};

void PrintTo(const Case& test_case, std::ostream* out) { *out << test_case.name; }

const Case kCases[] = {
    {"full", "full", {70}},
    {"chunks_8", "gsa@8", {70}},
    {"chunks_4_4", "gsa@4-4", {90}},
    {"chunks_4_4_4", "gsa@4-4-4", {130}},
    {"documents", "gsa@4-4", {30, 1, 25, 40}},
    {"branches_full", "full", {60}, 3},
    {"branches_8", "gsa@8:ratio=2", {60, 30}, 3},
    {"branches_4_4", "gsa@4-4:ratio=4", {60, 40}, 2},
    {"branches_by_group", "gsa@4:ratio=2:mode=group", {60}, 2},
    {"branches_all_gists", "gsa@4-4:gists=all", {60, 40}, 2},
    {"content", "gsa@4-4", {90}, 0, model::GistInput::content},
    {"content_branches", "gsa@8:tokens=4096", {60, 30}, 3, model::GistInput::content}};

/// The loss of a row as a function of everything that trains.
class RowLoss {
 public:
  RowLoss(const Case& test_case, Trained trained)
      : base_(test::load_test_model("llama-gqa")),
        trained_(base_, options(trained, test_case.gist_input)) {
    core::Rng rng(29);
    const Example example = random_example(rng, test_case.piece_lens, test_case.num_suffixes);
    rows_ = pack_rows({&example, 1}, std::vector{attention::PolicySpec::parse(test_case.policy)},
                      base_->tokenizer().word_starts());
    const at::NoGradGuard no_grad;
    at::manual_seed(23);
    for (const Parameter& parameter : parameters()) {  // B starts at 0, which would hide A
      if (parameter.name.ends_with("lora_B") || parameter.kind == Parameter::Kind::gist)
        parameter.tensor.add_(at::randn(parameter.tensor.sizes()), 0.3);
    }
  }

  const std::vector<Parameter>& parameters() const { return trained_.parameters(); }

  at::Tensor operator()(bool recompute = false) const {
    const auto model = trained_.model();
    const at::Tensor hidden =
        model->forward(rows_.batch, {.rows = rows_.rows, .recompute = recompute});
    return token_loss(hidden, TrainedModel::output_weight(*model), rows_.labels,
                      1.0 / static_cast<double>(rows_.num_labels()));
  }

  std::vector<at::Tensor> gradients(bool recompute = false) const {
    for (const Parameter& parameter : parameters()) parameter.tensor.mutable_grad() = at::Tensor();
    (*this)(recompute).backward();
    std::vector<at::Tensor> grads;
    for (const Parameter& parameter : parameters()) grads.push_back(parameter.tensor.grad());
    return grads;
  }

 private:
  static ParameterOptions options(Trained trained, model::GistInput gist_input) {
    ParameterOptions options;
    options.trained = trained;
    options.rank = 3;
    options.gist_input = gist_input;
    return options;
  }

  std::shared_ptr<const model::Model> base_;
  TrainedModel trained_;
  PackedRows rows_;
};

/// Slope along a direction of length 1, by finite differences of two steps that agree; nothing if
/// there are none. Where a selection changes within a step the loss jumps, and a shorter one has to
/// be found; much shorter ones are below what f32 resolves.
std::optional<double> slope(const RowLoss& loss, const at::Tensor& tensor,
                            const at::Tensor& direction) {
  const at::Tensor before = tensor.clone();
  const double here = loss().item<double>();
  std::optional<double> last;
  for (double step = 3.2e-2; step > 2e-4; step /= 2) {
    tensor.copy_(before).add_(direction, step);
    const double rise = loss().item<double>() - here;
    tensor.copy_(before).sub_(direction, step);
    const double fall = here - loss().item<double>();
    tensor.copy_(before);
    const double quotient = (rise + fall) / (2 * step);
    const bool jumps = std::abs(rise - fall) > 0.05 * std::abs(rise + fall);
    if (!jumps && last && std::abs(*last - quotient) < 0.01 * std::abs(quotient)) return quotient;
    last = jumps ? std::nullopt : std::optional(quotient);
  }
  return std::nullopt;
}

/// Along the gradient the slope is its norm.
void expect_slope_is_norm(const RowLoss& loss, const Parameter& parameter, const at::Tensor& grad) {
  const at::NoGradGuard no_grad;
  const double norm = grad.norm().item<double>();
  ASSERT_GT(norm, 1e-4) << parameter.name;
  const std::optional<double> expected = slope(loss, parameter.tensor, grad.div(norm));
  ASSERT_TRUE(expected) << parameter.name;
  EXPECT_NEAR(*expected / norm, 1, 2e-2) << parameter.name;  // two steps agree to 1 %
}

class ForwardGradient : public testing::TestWithParam<Case> {};

TEST_P(ForwardGradient, EqualsFiniteDifferences) {
  const RowLoss loss(GetParam(), Trained::lora);
  const std::vector<at::Tensor> grads = loss.gradients();
  for (const auto i : c10::irange(grads.size())) {
    const Parameter& parameter = loss.parameters()[i];
    if (!grads[i].defined()) {  // no gists under full attention
      EXPECT_EQ(parameter.name, "gist_embeddings");
      EXPECT_STREQ(GetParam().policy, "full");
      continue;
    }
    expect_slope_is_norm(loss, parameter, grads[i]);
  }
}

// What a token is worth to the gists above it is part of the gradient of its embedding.
TEST_P(ForwardGradient, OfTheEmbeddingEqualsFiniteDifferences) {
  const RowLoss loss(GetParam(), Trained::full);
  const std::vector<at::Tensor> grads = loss.gradients();
  for (const auto i : c10::irange(grads.size())) {
    const Parameter& parameter = loss.parameters()[i];
    if (parameter.name == "embedding") expect_slope_is_norm(loss, parameter, grads[i]);
  }
}

class Recompute : public testing::TestWithParam<Case> {};

TEST_P(Recompute, GivesTheSameGradients) {
  for (const Trained trained : {Trained::lora, Trained::gists, Trained::full}) {
    const RowLoss loss(GetParam(), trained);
    if (trained == Trained::gists && std::string(GetParam().policy) == "full") continue;
    EXPECT_EQ(loss(true).item<float>(), loss(false).item<float>());
    const std::vector<at::Tensor> expected = loss.gradients(false), actual = loss.gradients(true);
    for (const auto i : c10::irange(expected.size())) {
      ASSERT_EQ(actual[i].defined(), expected[i].defined()) << loss.parameters()[i].name;
      if (!expected[i].defined()) continue;
      // The same operations; only what adds up may add up in another order.
      EXPECT_LT(test::relative_error(actual[i], expected[i]), 1e-6) << loss.parameters()[i].name;
    }
  }
}

TEST(RecomputeRefuses, WhatCountsTheRuns) {
  const auto base = test::load_test_model("llama-gqa");
  const TrainedModel trained(base, {.rank = 3});
  core::Rng rng(1);
  const Example example = random_example(rng, {30});
  const auto error = [&](const char* policy, attention::KvStore* store) {
    PackedRows rows = pack_rows({&example, 1}, std::vector{attention::PolicySpec::parse(policy)},
                                base->tokenizer().word_starts());
    rows.batch.sequences[0].store = store;
    return test::error_of(
        [&] { trained.model()->forward(rows.batch, {.rows = {}, .recompute = true}); });
  };
  attention::KvStore store(base->kv_shape(1));
  EXPECT_FALSE(error("gsa@8", nullptr));
  EXPECT_THAT(error("gsa@8", &store), test::IsError(ErrorKind::internal, "recomputed"));
  EXPECT_THAT(error("random@8", nullptr), test::IsError(ErrorKind::internal, "recomputed"));
}

TEST(RecomputeMemory, IsSmaller) {
  const RowLoss loss({"long", "gsa@8", {1500}}, Trained::lora);
  loss.gradients();  // what is allocated once
  const auto live_before_backward = [&](bool recompute) {
    const attention::AllocationMeter meter;
    const at::Tensor value = loss(recompute);
    return meter.live_bytes();
  };
  // Two layers keep their inputs instead of some ten tensors each.
  EXPECT_LT(live_before_backward(true), live_before_backward(false) / 2);
  const auto peak = [&](bool recompute) {
    const attention::AllocationMeter meter;
    loss.gradients(recompute);
    return meter.peak_bytes();
  };
  EXPECT_LT(peak(true), peak(false));
}

std::string case_name(const testing::TestParamInfo<Case>& info) { return info.param.name; }
INSTANTIATE_TEST_SUITE_P(Layouts, ForwardGradient, testing::ValuesIn(kCases), case_name);
INSTANTIATE_TEST_SUITE_P(Layouts, Recompute, testing::ValuesIn(kCases), case_name);

}  // namespace
}  // namespace gsa::train
