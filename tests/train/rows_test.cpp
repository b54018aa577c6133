#include "train/rows.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "gsa/error.h"
#include "model/test_models.h"
#include "support/errors.h"
#include "train/parameters.h"
#include "train/random_examples.h"

namespace gsa::train {
namespace {

using attention::PolicySpec;
using testing::ElementsAre;

std::vector<std::int64_t> values(const at::Tensor& tensor) {
  const auto* data = tensor.const_data_ptr<std::int64_t>();
  return {data, data + tensor.numel()};
}

PackedRows pack_one(const Example& example, const char* policy, const PackOptions& options = {}) {
  const std::vector<bool> word_starts(100, true);
  return pack_rows({&example, 1}, std::vector{PolicySpec::parse(policy)}, word_starts, options);
}

TEST(PackRows, WithoutSuffixesEveryTokenPredictsTheNext) {
  // Chunks of 3 + 2, 2 and 1 tokens; a document of 2; then G over two gists each and at the ends.
  const Example example{{{10, 11, 12, 13, 14, 15, 16, 17}, {18, 19}}, {}};
  const PackedRows rows = pack_one(example, "gsa@2-2");
  EXPECT_THAT(values(rows.batch.tokens), ElementsAre(10, 11, 12, 13, 14, 15, 16, 17, 18, 19,  //
                                                     0, 0, 0, 0, 0, 0, 0));
  EXPECT_THAT(values(rows.batch.positions), ElementsAre(0, 1, 2, 3, 4, 5, 6, 7, 8, 9,  //
                                                        4, 6, 7, 9, 6, 7, 9));
  EXPECT_THAT(values(rows.rows), ElementsAre(0, 1, 2, 3, 4, 5, 6, 7, 8));
  EXPECT_THAT(values(rows.labels), ElementsAre(11, 12, 13, 14, 15, 16, 17, 18, 19));
  EXPECT_EQ(rows.num_raw, 10);
  EXPECT_EQ(rows.num_tokens(), 17);
  EXPECT_EQ(rows.num_labels(), 9);
}

TEST(PackRows, WithSuffixesOnlyAnswersAreLabels) {
  // A suffix without a prompt has nothing that predicts its first token.
  const Example example{{{10, 11, 12, 13, 14}}, {{{20, 21, 22, 23}, 2}, {{30, 31}, 0}, {{40}, 1}}};
  const PackedRows rows = pack_one(example, "gsa@2");
  EXPECT_THAT(values(rows.batch.tokens),
              ElementsAre(10, 11, 12, 13, 14, 0, 20, 21, 22, 23, 30, 31, 40));
  EXPECT_THAT(values(rows.batch.positions), ElementsAre(0, 1, 2, 3, 4, 4, 5, 6, 7, 8, 5, 6, 5));
  EXPECT_THAT(values(rows.rows), ElementsAre(7, 8, 10));
  EXPECT_THAT(values(rows.labels), ElementsAre(22, 23, 31));
  EXPECT_EQ(rows.num_raw, 12);
  const attention::BatchSlice& suffix = rows.batch.sequences[0].slices.back();
  EXPECT_TRUE(suffix.is_suffix);
  EXPECT_EQ(suffix.row, 6);
  EXPECT_EQ(suffix.entries.begin, 5);
  EXPECT_THAT(suffix.entries.branch_begins, ElementsAre(5, 5, 5, 5, 9, 9, 11));
  EXPECT_THAT(rows.batch.sequences[0].raw_tokens, ElementsAre(10, 11, 12, 13, 14));
}

TEST(PackRows, LabelsOnlyTheEndIfTold) {
  const Example example{{{10, 11, 12, 13, 14}}, {}};
  const PackedRows rows = pack_one(example, "full", {.max_labels = 2});
  EXPECT_THAT(values(rows.rows), ElementsAre(2, 3));
  EXPECT_THAT(values(rows.labels), ElementsAre(13, 14));
  EXPECT_EQ(pack_one(example, "full", {.max_labels = 9}).num_labels(), 4);
}

TEST(PackRows, BoundsTheWeightOfRowsWithoutSuffixes) {
  const Example text{{{10, 11, 12, 13, 14}}, {}}, other{{{10, 11}}, {}};
  EXPECT_EQ(pack_one(text, "full").label_weight(), 4);
  const std::vector examples = {Example{{{10, 11}}, {{{20, 21, 22}, 1}}}, text, other};
  const std::vector<PolicySpec> policies(3, PolicySpec::parse("full"));
  const PackedRows rows =
      pack_rows(examples, policies, std::vector<bool>(100, true), {.max_bare_weight = 3});
  EXPECT_EQ(rows.num_labels(), 2 + 4 + 1);
  ASSERT_EQ(rows.bare_labels.size(), 2);
  EXPECT_EQ(rows.bare_labels[0].count, 4);
  EXPECT_DOUBLE_EQ(rows.bare_labels[0].weight, 3 / 4.0);
  EXPECT_EQ(rows.bare_labels[1].count, 1);
  EXPECT_EQ(rows.bare_labels[1].weight, 1);
  EXPECT_DOUBLE_EQ(rows.label_weight(), 2 + 3 + 1);
}

TEST(PackRows, RefusesRowsWithoutTokensAndUnknownIds) {
  using test::error_of, test::IsError;
  const auto error = [](const Example& example) {
    return error_of([&] { pack_one(example, "gsa@2"); });
  };
  EXPECT_THAT(error({{}, {}}), IsError(ErrorKind::input, "no tokens"));
  EXPECT_THAT(error({{{}}, {}}), IsError(ErrorKind::input, "no tokens"));
  EXPECT_THAT(error({{{100}}, {}}), IsError(ErrorKind::input, "token id 100"));
  EXPECT_THAT(error({{{-1}}, {}}), IsError(ErrorKind::input, "token id -1"));
  EXPECT_THAT(error({{{5}}, {{{7, 3000}, 1}}}), IsError(ErrorKind::input, "token id 3000"));
}

const char* const kPolicies[] = {"full", "gsa@8", "gsa@4-4", "gsa@16", "gsa@4-4:gists=all"};

/// Hidden states of what predicts.
at::Tensor run(const model::Model& model, const std::vector<Example>& examples,
               const std::vector<PolicySpec>& policies) {
  const at::NoGradGuard no_grad;
  const PackedRows rows = pack_rows(examples, policies, model.tokenizer().word_starts());
  return model.forward(rows.batch, {.rows = rows.rows});
}

TEST(PackRows, PackedExamplesEqualEachAlone) {
  const auto base = test::load_test_model("llama-gqa");
  const TrainedModel content(base, {.rank = 4, .gist_input = model::GistInput::content});
  core::Rng rng(3);
  for (int round = 0; round < 10; ++round) {
    const auto model = round % 2 == 0 ? base : content.model();
    std::vector<Example> examples;
    std::vector<PolicySpec> policies;
    std::vector<at::Tensor> alone;
    for (const char* policy : kPolicies) {
      const auto len = static_cast<std::int64_t>(1 + rng.below(60));
      examples.push_back(random_example(rng, {len, 1 + rng.below(30)}, rng.below(3)));
      policies.push_back(PolicySpec::parse(policy));
      alone.push_back(run(*model, {examples.back()}, {policies.back()}));
    }
    // f32, other blocks of the products.
    EXPECT_LT(test::relative_error(run(*model, examples, policies), at::cat(alone)), 1e-5);
  }
}

TEST(PackRows, SuffixesEqualEachAlone) {
  const auto model = test::load_test_model("llama-gqa");
  core::Rng rng(4);
  for (int round = 0; round < 10; ++round) {
    for (const char* policy : kPolicies) {
      const Example example = random_example(rng, {20 + rng.below(60), 1 + rng.below(30)}, 3);
      const PolicySpec spec = PolicySpec::parse(policy);
      std::vector<at::Tensor> alone;
      for (const Suffix& suffix : example.suffixes)
        alone.push_back(run(*model, {{example.pieces, {suffix}}}, {spec}));
      EXPECT_LT(test::relative_error(run(*model, {example}, {spec}), at::cat(alone)), 1e-5)
          << policy;
    }
  }
}

TEST(RowPolicy, NamesThePolicy) {
  EXPECT_EQ(row_policy({}, "ratio=2").to_string(), "full");
  EXPECT_EQ(row_policy({{4, 4}}, "").to_string(), PolicySpec::parse("gsa@4-4").to_string());
  EXPECT_EQ(row_policy({{8}}, "tokens=64:mode=group").to_string(),
            PolicySpec::parse("gsa@8:tokens=64:mode=group").to_string());
}

TEST(RowPolicy, IsNamedByWhatNotAllHave) {
  const auto name = [](const attention::ChunkSizes& sizes, const char* common, const char* own) {
    const std::string between = *common && *own ? ":" : "";
    return row_policy_name(row_policy(sizes, std::string(common) + between + own), common);
  };
  EXPECT_EQ(name({}, "route=both", ""), "full");
  EXPECT_EQ(name({{8}}, "", ""), "8");
  EXPECT_EQ(name({{4, 4}}, "tokens=64:route=both", ""), "4-4");
  EXPECT_EQ(name({{8}}, "route=both", "read=full"), "8:read=full");
  EXPECT_EQ(name({{8}}, "", "read=full:tokens=64"), "8:tokens=64:read=full");
  EXPECT_EQ(name({{8}}, "local=12", "sinks=1:read=gist"), "8:read=gist:sinks=1");
  EXPECT_EQ(name({{8}}, "tokens=128", "layers=1/0.5"), "8:layers=1/0.5");
}

}  // namespace
}  // namespace gsa::train
