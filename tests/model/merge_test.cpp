#include "model/merge.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/randn.h>
#include <gtest/gtest.h>

#include <cmath>
#include <string>

#include "core/gguf.h"
#include "model/test_models.h"
#include "support/errors.h"

namespace gsa::model {
namespace {

using test::error_of;
using test::IsError;

/// Gists and updates of every projection, large enough to show.
Adapter random_adapter(const Model& model) {
  Adapter adapter;
  const ModelConfig& config = model.config();
  constexpr std::int64_t rank = 3;
  adapter.info.base_fingerprint = model.fingerprint();
  adapter.info.chunk_sizes = {attention::ChunkSizes{{4}}};
  adapter.info.num_gist_rows = 2;
  adapter.info.lora_rank = rank;
  adapter.info.lora_alpha = 1.5;
  adapter.info.lora_targets.assign(kLoraTargets.begin(), kLoraTargets.end());
  adapter.gist_embeddings = at::randn({2, config.hidden});
  for (std::int64_t layer = 0; layer < config.num_layers; ++layer) {
    for (const LoraTarget target : kLoraTargets) {
      const auto [out, in] = lora_target_shape(config, target);
      adapter.loras[{layer, target}] = {
          at::randn({rank, in}).div(std::sqrt(static_cast<double>(in))), at::randn({out, rank})};
    }
  }
  return adapter;
}

std::filesystem::path source_of(const std::string& name) {
  const auto folder = test::models_dir() / name;
  const auto gguf = folder / "model.gguf";
  return std::filesystem::exists(gguf) ? gguf : folder;
}

at::Tensor logits(const std::shared_ptr<const Model>& model) {
  test::SequenceRunner runner(model, "gsa@4:tokens=8");
  runner.read(at::arange(5, 45, at::kLong));
  return runner.run(at::arange(60, 72, at::kLong));
}

/// Where the result of a merge goes: a file for GGUF, a directory otherwise.
std::filesystem::path result_in(const test::TempDir& folder, const std::filesystem::path& source,
                                const std::string& name) {
  return folder.path() / (std::filesystem::is_directory(source) ? name : name + ".gguf");
}

class Merge : public testing::TestWithParam<const char*> {};

TEST_P(Merge, GivesTheLogitsOfBaseAndAdapter) {
  const at::NoGradGuard no_grad;
  const auto source = source_of(GetParam());
  const auto base = test::load_test_model(GetParam());
  Adapter adapter = random_adapter(*base);
  adapter.info.policy_keys = "route=both";
  const auto adapted = base->with_adapter(adapter);
  const test::TempDir folder;
  const auto out = result_in(folder, source, "merged");

  save_merged(*adapted, source, out, {.dtype = at::kFloat});
  save_gists(adapter, out, gists_path(out), at::kFloat);

  const auto merged = Model::load(out, {.dtype = at::kFloat});
  const Adapter gists = Adapter::load(gists_path(out));
  EXPECT_TRUE(gists.loras.empty());
  EXPECT_EQ(gists.info.base_fingerprint, merged->fingerprint());
  EXPECT_EQ(gists.info.policy_keys, adapter.info.policy_keys);
  const at::Tensor expected = logits(adapted);
  EXPECT_GT(test::relative_error(logits(base), expected), 1e-2) << "the adapter does not show";
  EXPECT_LT(test::relative_error(logits(merged->with_adapter(gists)), expected), 2e-5);
}

INSTANTIATE_TEST_SUITE_P(, Merge,
                         testing::Values("llama", "llama-gqa", "llama-bias", "llama-old-rope",
                                         "qwen2", "qwen3", "llama-f32", "llama-gqa-f16", "llama-q8",
                                         "llama-bias-f32", "qwen2-f16", "qwen3-f32", "qwen3-q8"),
                         [](const auto& param_info) {
                           std::string name = param_info.param;
                           std::ranges::replace(name, '-', '_');
                           return name;
                         });

TEST(MergeRounding, IsWhatTheBlocksRound) {
  const auto source = source_of("llama-q8");
  const auto packed = Model::load(source, {.dtype = at::kFloat, .form = MatrixForm::packed});
  const auto exact = Model::load(source, {.dtype = at::kFloat});
  const Adapter adapter = random_adapter(*packed);
  const auto adapted = packed->with_adapter(adapter);
  const MergeRounding rounding = merge_rounding(*adapted, *adapted->merged());
  // 127 steps to the largest value of a block; the error of one is uniform.
  EXPECT_GT(rounding.of_weights, 1e-3);
  EXPECT_LT(rounding.of_weights, 2.5 / 127 / std::sqrt(12.0));
  EXPECT_GT(rounding.of_updates, rounding.of_weights);
  const auto adapted_exact = exact->with_adapter(adapter);
  EXPECT_LT(merge_rounding(*adapted_exact, *adapted_exact->merged()).of_weights, 1e-6);
  EXPECT_EQ(merge_rounding(*packed, *packed->merged()).of_weights, 0) << "without updates";
}

class MergeMark : public testing::TestWithParam<const char*> {
 protected:
  /// Writes a model and reads it again.
  std::shared_ptr<const Model> merged(const Model& model, const std::filesystem::path& source,
                                      const std::string& name, const MergeOptions& options) const {
    save_merged(model, source, result_in(folder_, source, name), options);
    return Model::load(result_in(folder_, source, name), {.dtype = at::kFloat});
  }

  test::TempDir folder_;
  std::filesystem::path source_ = source_of(GetParam());
  std::shared_ptr<const Model> base_ = test::load_test_model(GetParam());
  Adapter adapter_ = random_adapter(*base_);
};

TEST_P(MergeMark, RefusesAdaptersOfTheBase) {
  const auto marked = merged(*base_->with_adapter(adapter_), source_, "merged", {});
  EXPECT_EQ(marked->config().merged_adapter.size(), 64U);
  EXPECT_NE(marked->fingerprint(), base_->fingerprint());
  EXPECT_THAT(error_of([&] { (void)marked->with_adapter(adapter_); }),
              IsError(ErrorKind::input, "was trained on the base " + base_->fingerprint()));
}

TEST_P(MergeMark, DependsOnTheUpdatesAndNotOnTheDtype) {
  const auto adapted = base_->with_adapter(adapter_);
  const std::string fingerprint = merged(*adapted, source_, "bf16", {})->fingerprint();
  EXPECT_EQ(merged(*adapted, source_, "f32", {.dtype = at::kFloat})->fingerprint(), fingerprint);
  Adapter other = adapter_;
  other.info.lora_alpha *= 2;
  EXPECT_NE(merged(*base_->with_adapter(other), source_, "scale", {})->fingerprint(), fingerprint);
  other = adapter_;
  LoraFactors& factors = other.loras.begin()->second;
  factors.b = factors.b.clone();
  factors.b[0][0].add_(1);
  EXPECT_NE(merged(*base_->with_adapter(other), source_, "value", {})->fingerprint(), fingerprint);
}

TEST_P(MergeMark, StaysOffWhereNoWeightChanges) {
  Adapter gists = adapter_;
  gists.loras.clear();
  const auto copy = merged(*base_->with_adapter(gists), source_, "copy", {});
  EXPECT_TRUE(copy->config().merged_adapter.empty());
  EXPECT_EQ(copy->fingerprint(), base_->fingerprint());
}

TEST_P(MergeMark, NamesNewWeights) {
  const auto scaled = base_->with_weights(
      [](const at::Tensor& weight) { return weight.dim() > 1 ? weight.mul(1.01) : weight; });
  const auto marked = merged(*scaled, source_, "trained", {.has_new_weights = true});
  EXPECT_NE(marked->fingerprint(), base_->fingerprint()) << "although the norms are the same";
}

TEST_P(MergeMark, TakesTheNextOneOnTop) {
  const auto once = merged(*base_->with_adapter(adapter_), source_, "once", {});
  const auto path = result_in(folder_, source_, "once");
  Adapter next = adapter_;
  next.info.base_fingerprint = once->fingerprint();
  const auto twice = merged(*once->with_adapter(next), path, "twice", {});
  EXPECT_EQ(twice->config().merged_adapter.size(), 64U);
  EXPECT_NE(twice->config().merged_adapter, once->config().merged_adapter);
  EXPECT_NE(twice->fingerprint(), base_->fingerprint());
  // A copy of a merged model is that model.
  EXPECT_EQ(merged(*once, path, "copy", {})->fingerprint(), once->fingerprint());
}

INSTANTIATE_TEST_SUITE_P(, MergeMark, testing::Values("llama", "llama-f32"),
                         [](const auto& param_info) {
                           return std::string(param_info.param) == "llama" ? "directory" : "gguf";
                         });

TEST(MergeFile, KeepsMetadataAndTensorsOfGguf) {
  const auto source = source_of("llama-gqa-f16");
  const auto base = test::load_test_model("llama-gqa-f16");
  const test::TempDir folder;
  save_merged(*base, source, folder.path() / "copy.gguf", {.dtype = at::kHalf});
  const auto before = core::GgufFile::open(source);
  const auto after = core::GgufFile::open(folder.path() / "copy.gguf");
  EXPECT_TRUE(before.metadata() == after.metadata());
  ASSERT_EQ(before.tensors().size(), after.tensors().size());
  for (std::size_t i = 0; i < before.tensors().size(); ++i) {
    const auto &a = before.tensors()[i], &b = after.tensors()[i];
    EXPECT_EQ(a.name, b.name);
    EXPECT_EQ(a.shape, b.shape);
    EXPECT_EQ(a.type, b.type) << a.name;
    // f16 to f32 and back, rows from the file's order to ours and back: nothing is lost.
    EXPECT_TRUE(std::ranges::equal(a.data, b.data)) << a.name;
  }
}

TEST(MergeFile, RefusesToOverwrite) {
  const auto base = test::load_test_model("llama");
  const auto source = source_of("llama");
  const test::TempDir folder;
  test::write_bytes(folder.path() / "mine.txt", "text");
  EXPECT_THAT(error_of([&] { save_merged(*base, source, source, {}); }),
              IsError(ErrorKind::input, "itself"));
  EXPECT_THAT(error_of([&] { save_merged(*base, source, folder.path(), {}); }),
              IsError(ErrorKind::input, "new folder"));
  EXPECT_EQ(test::read_bytes(folder.path() / "mine.txt"), "text");
}

}  // namespace
}  // namespace gsa::model
