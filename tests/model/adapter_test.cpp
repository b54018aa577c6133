#include "model/adapter.h"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <string>
#include <utility>

#include "core/rng.h"
#include "core/safetensors.h"
#include "gsa/error.h"
#include "model/random_adapter.h"
#include "model/test_models.h"

namespace gsa::model {
namespace {

std::string error_of(const std::function<void()>& run) {
  try {
    run();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::input);
    EXPECT_EQ(std::string(error.what()).find('\n'), std::string::npos) << error.what();
    return error.what();
  }
  return "";
}

TEST(Adapter, SurvivesSavingAndLoading) {
  const test::TempDir dir;
  const auto path = dir.path() / "mine.safetensors";
  const Adapter saved = random_adapter(small_config());
  saved.save(path);
  const Adapter loaded = Adapter::load(path);
  EXPECT_EQ(loaded.info.name, "mine");
  EXPECT_EQ(loaded.info.base_fingerprint, saved.info.base_fingerprint);
  EXPECT_EQ(loaded.info.chunk_sizes, saved.info.chunk_sizes);
  EXPECT_EQ(loaded.info.num_gist_rows, 2);
  EXPECT_EQ(loaded.info.lora_rank, saved.info.lora_rank);
  EXPECT_EQ(loaded.info.lora_alpha, saved.info.lora_alpha);
  EXPECT_EQ(loaded.info.lora_targets, saved.info.lora_targets);
  EXPECT_EQ(loaded.info.recipe, saved.info.recipe);
  EXPECT_TRUE(loaded.gist_embeddings.equal(saved.gist_embeddings));
  ASSERT_EQ(loaded.loras.size(), saved.loras.size());
  for (const auto& [key, factors] : saved.loras) {
    EXPECT_TRUE(loaded.loras.at(key).a.equal(factors.a));
    EXPECT_TRUE(loaded.loras.at(key).b.equal(factors.b));
  }
  EXPECT_NO_THROW(loaded.check_fits(small_config(), "00ff"));
}

TEST(Adapter, KeepsThePolicyKeysOfItsTraining) {
  const test::TempDir dir;
  const auto path = dir.path() / "mine.safetensors";
  Adapter adapter = random_adapter(small_config());
  adapter.save(path);
  EXPECT_EQ(Adapter::load(path).info.policy_keys, "");
  EXPECT_FALSE(core::SafetensorsFile::open(path).metadata().contains("policy_keys"));
  adapter.info.policy_keys = "route=both:layers=1/0.5";
  adapter.save(path);
  EXPECT_EQ(Adapter::load(path).info.policy_keys, "route=both:layers=1/0.5");
  adapter.info.policy_keys = "layers=1/0.50/0.5:route=both";  // as somebody may write it
  adapter.save(path);
  EXPECT_EQ(Adapter::load(path).info.policy_keys, "route=both:layers=1/0.5*2");
  for (const char* damaged :
       {"route=best", "route", "tokens=64", "route=both:tokens=64", ":", "@4"}) {
    adapter.info.policy_keys = damaged;
    adapter.save(path);
    const std::string message = error_of([&] { Adapter::load(path); });
    EXPECT_NE(message.find(path.string()), std::string::npos) << message;
    EXPECT_NE(message.find("policy_keys"), std::string::npos) << message;
  }
}

TEST(Adapter, MayHoldGistEmbeddingsOnly) {
  const test::TempDir dir;
  Adapter adapter;
  adapter.info.num_gist_rows = 1;
  adapter.gist_embeddings = at::randn({1, 8});
  adapter.save(dir.path() / "gists");
  const Adapter loaded = Adapter::load(dir.path() / "gists");
  EXPECT_TRUE(loaded.loras.empty());
  EXPECT_EQ(loaded.info.lora_scale(), 0);
  EXPECT_TRUE(loaded.info.chunk_sizes.empty());
}

TEST(Adapter, TellsWhatItsGistsStartFrom) {
  const test::TempDir dir;
  const auto path = dir.path() / "adapter.safetensors";
  Adapter adapter = random_adapter(small_config());
  adapter.save(path);
  EXPECT_EQ(test::read_bytes(path).find("gist_input"), std::string::npos) << "files as ever";
  EXPECT_EQ(Adapter::load(path).info.gist_input, GistInput::row);

  adapter.info.gist_input = GistInput::content;
  adapter.save(path);
  EXPECT_EQ(Adapter::load(path).info.gist_input, GistInput::content);

  std::string bytes = test::read_bytes(path);
  bytes.replace(bytes.find("\"content\""), 9, "\"context\"");
  test::write_bytes(path, bytes);
  const std::string message = error_of([&] { Adapter::load(path); });
  EXPECT_NE(message.find("'gist_input' is 'context'"), std::string::npos) << message;
}

TEST(GistInput, KnowsItsNames) {
  for (const GistInput input : kGistInputs)
    EXPECT_EQ(parse_gist_input(gist_input_name(input)), input);
  EXPECT_NE(error_of([] { parse_gist_input("mean"); }).find("row or content"), std::string::npos);
}

TEST(Adapter, NamesBothFingerprintsForAnotherBase) {
  const std::string message =
      error_of([] { random_adapter(small_config()).check_fits(small_config(), "abcd"); });
  EXPECT_NE(message.find("00ff"), std::string::npos) << message;
  EXPECT_NE(message.find("abcd"), std::string::npos) << message;
}

TEST(Adapter, RefusesShapesThatDoNotFit) {
  const Adapter adapter = random_adapter(small_config());
  for (auto change :
       {+[](ModelConfig& c) { c.hidden = 10; }, +[](ModelConfig& c) { c.num_layers = 1; },
        +[](ModelConfig& c) { c.head_dim = 8; }, +[](ModelConfig& c) { c.intermediate = 16; }}) {
    ModelConfig config = small_config();
    change(config);
    EXPECT_NE(error_of([&] { adapter.check_fits(config, "00ff"); }), "");
  }
}

TEST(Adapter, RefusesFilesThatContradictThemselves) {
  const test::TempDir dir;
  const auto path = dir.path() / "adapter.safetensors";
  const auto error_after = [&](auto change) {
    Adapter adapter = random_adapter(small_config());
    change(adapter);
    adapter.save(path);
    return error_of([&] { Adapter::load(path); });
  };
  const std::pair<std::int64_t, LoraTarget> key{1, LoraTarget::v_proj};
  EXPECT_NE(error_after([](Adapter& a) { a.info.lora_rank = 4; }).find("rank"), std::string::npos);
  EXPECT_NE(error_after([](Adapter& a) { a.info.lora_rank = -1; }).find("lora_rank"),
            std::string::npos);
  EXPECT_NE(error_after([](Adapter& a) { a.info.lora_alpha = NAN; }).find("lora_alpha"),
            std::string::npos);
  EXPECT_NE(error_after([](Adapter& a) { a.info.lora_targets.pop_back(); }).find("lora_targets"),
            std::string::npos);
  EXPECT_NE(error_after([](Adapter& a) { a.gist_embeddings = at::randn({8}); }).find("matrix"),
            std::string::npos);
  EXPECT_NE(error_after([](Adapter& a) { a.gist_embeddings[0][0] = INFINITY; }).find("finite"),
            std::string::npos);
  EXPECT_NE(error_after([&](Adapter& a) {
              a.loras[key].a = at::randn({3, 8, 1});
            }).find("layers.1.v_proj.lora_A"),
            std::string::npos);
}

TEST(Adapter, RefusesOtherSafetensorsFiles) {
  const std::string message =
      error_of([] { Adapter::load(test::models_dir() / "llama" / "model.safetensors"); });
  EXPECT_NE(message.find("no adapter"), std::string::npos) << message;
}

TEST(Adapter, DamagedFilesGiveAnErrorOrAnAdapter) {
  const test::TempDir dir;
  const auto path = dir.path() / "adapter.safetensors";
  random_adapter(small_config()).save(path);
  const std::string bytes = test::read_bytes(path);
  const std::size_t header_len = bytes.find("\"layers.0", 0) + 2000;
  core::Rng rng(1);
  for (int i = 0; i < 200; ++i) {
    test::write_bytes(path, std::string_view(bytes).substr(
                                0, rng.below(static_cast<std::uint32_t>(bytes.size()))));
    EXPECT_NE(error_of([&] { Adapter::load(path); }), "");
  }
  int num_refused = 0;
  for (int i = 0; i < 1000; ++i) {
    std::string flipped = bytes;
    flipped[rng.below(static_cast<std::uint32_t>(header_len))] ^=
        static_cast<char>(1 << rng.below(8));
    test::write_bytes(path, flipped);
    num_refused += error_of([&] { Adapter::load(path).check_fits(small_config(), "00ff"); }) != "";
  }
  EXPECT_GT(num_refused, 500);
}

}  // namespace
}  // namespace gsa::model
