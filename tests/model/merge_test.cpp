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

class Merge : public testing::TestWithParam<const char*> {};

TEST_P(Merge, GivesTheLogitsOfBaseAndAdapter) {
  const at::NoGradGuard no_grad;
  const auto source = source_of(GetParam());
  const auto base = test::load_test_model(GetParam());
  const Adapter adapter = random_adapter(*base);
  const auto adapted = base->with_adapter(adapter);
  const test::TempDir folder;
  const auto out = folder.path() / (std::filesystem::is_directory(source) ? "merged" : "merged.gguf");

  save_merged(*adapted, source, out, at::kFloat);
  save_gists(adapter, out, gists_path(out), at::kFloat);

  const auto merged = Model::load(out, {.dtype = at::kFloat});
  const Adapter gists = Adapter::load(gists_path(out));
  EXPECT_TRUE(gists.loras.empty());
  EXPECT_EQ(gists.info.base_fingerprint, merged->fingerprint());
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

TEST(MergeFile, KeepsMetadataAndTensorsOfGguf) {
  const auto source = source_of("llama-gqa-f16");
  const auto base = test::load_test_model("llama-gqa-f16");
  const test::TempDir folder;
  save_merged(*base, source, folder.path() / "copy.gguf", at::kHalf);
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
  EXPECT_THAT(error_of([&] { save_merged(*base, source, source, at::kFloat); }),
              IsError(ErrorKind::input, "itself"));
  EXPECT_THAT(error_of([&] { save_merged(*base, source, folder.path(), at::kFloat); }),
              IsError(ErrorKind::input, "new folder"));
  EXPECT_EQ(test::read_bytes(folder.path() / "mine.txt"), "text");
}

}  // namespace
}  // namespace gsa::model
