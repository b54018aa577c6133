#include "train/evaluate.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/log_softmax.h>
#include <gtest/gtest.h>

#include "model/test_models.h"
#include "support/errors.h"
#include "train/random_examples.h"
#include "train/rows.h"

namespace gsa::train {
namespace {

using attention::PolicySpec;
using test::error_of;
using test::IsError;

std::vector<Example> examples(int num_suffixes) {
  core::Rng rng(8);
  std::vector<Example> made;
  for (int i = 0; i < 7; ++i)
    made.push_back(random_example(rng, {5 + rng.below(60), 1 + rng.below(20)}, num_suffixes));
  return made;
}

/// The mean over all labels, example by example, from the probabilities.
double expected_loss(const model::Model& model, const std::vector<Example>& all,
                     const PolicySpec& policy, std::int64_t max_labels) {
  const at::NoGradGuard no_grad;
  double total = 0;
  std::int64_t count = 0;
  for (const Example& example : all) {
    const PackedRows rows = pack_rows({&example, 1}, {&policy, 1}, model.tokenizer().word_starts(),
                                      {.max_labels = max_labels});
    const at::Tensor logits = model.logits(model.forward(rows.batch, {.rows = rows.rows}));
    total -= at::log_softmax(logits.to(at::kDouble), -1)
                 .gather(1, rows.labels.unsqueeze(1))
                 .sum()
                 .item<double>();
    count += rows.num_labels();
  }
  return total / static_cast<double>(count);
}

TEST(LabelLoss, IsTheMeanOverAllLabels) {
  const auto model = test::load_test_model("llama-gqa");
  for (const char* text : {"full", "gsa@8", "gsa@4-4"}) {
    const PolicySpec policy = PolicySpec::parse(text);
    for (const int num_suffixes : {0, 2}) {
      const auto all = examples(num_suffixes);
      const double expected = expected_loss(*model, all, policy, 16);
      for (const std::int64_t rows_per_batch : {1, 3, 100}) {
        const EvalOptions options{.max_labels = 16, .rows_per_batch = rows_per_batch};
        EXPECT_NEAR(label_loss(*model, all, policy, options).mean(), expected, 1e-4) << text;
      }
    }
  }
}

TEST(LabelLoss, CountsAllLabelsIfTold) {
  const auto model = test::load_test_model("llama-gqa");
  const auto all = examples(0);
  const PolicySpec policy = PolicySpec::parse("gsa@8");
  EXPECT_NEAR(label_loss(*model, all, policy, {.max_labels = 0}).mean(),
              expected_loss(*model, all, policy, 0), 1e-4);
}

TEST(LabelLoss, RefusesDataWithoutLabels) {
  const auto model = test::load_test_model("llama-gqa");
  const std::vector<Example> single(2, Example{{{5}}, {}});
  const PolicySpec policy = PolicySpec::parse("full");
  EXPECT_THAT(error_of([&] { label_loss(*model, single, policy).mean(); }),
              IsError(ErrorKind::input, "nothing to predict"));
  EXPECT_THAT(error_of([&] { label_loss(*model, {}, policy).mean(); }),
              IsError(ErrorKind::input, "nothing to predict"));
}

}  // namespace
}  // namespace gsa::train
