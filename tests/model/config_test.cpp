#include "model/config.h"

#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>
#include <string>

#include "core/gguf.h"
#include "gsa/error.h"
#include "model/test_models.h"

namespace gsa::model {
namespace {

using nlohmann::json;

json plain_config() {
  return {
      {"model_type", "llama"},  {"hidden_size", 64},           {"intermediate_size", 96},
      {"num_hidden_layers", 2}, {"num_attention_heads", 4},    {"num_key_value_heads", 2},
      {"vocab_size", 320},      {"rms_norm_eps", 1e-5},        {"rope_theta", 10000.0},
      {"hidden_act", "silu"},   {"tie_word_embeddings", true}, {"max_position_embeddings", 256}};
}

ModelConfig read(const json& config) {
  const test::TempDir dir;
  test::write_bytes(dir.path() / "config.json", config.dump());
  return read_config(dir.path());
}

TEST(Config, FillsInWhatFilesLeaveOut) {
  json text = plain_config();
  text.erase("num_key_value_heads");
  const ModelConfig config = read(text);
  EXPECT_EQ(config.num_kv_heads, 4);
  EXPECT_EQ(config.head_dim, 16);
  EXPECT_TRUE(config.tied_output);
  EXPECT_FALSE(config.qkv_bias);
  text["model_type"] = "qwen2";
  EXPECT_TRUE(read(text).qkv_bias);
  text["model_type"] = "qwen3";
  EXPECT_TRUE(read(text).qk_norm);
  EXPECT_EQ(read(text).head_dim, 128);
}

TEST(Config, ReadsOldAndNewRopeKeysAlike) {
  json old_keys = plain_config();
  old_keys["rope_scaling"] = {
      {"type", "yarn"}, {"factor", 4.0}, {"original_max_position_embeddings", 64}};
  json new_keys = plain_config();
  new_keys.erase("rope_theta");
  new_keys["rope_parameters"] = {{"rope_type", "yarn"},
                                 {"rope_theta", 10000.0},
                                 {"factor", 4.0},
                                 {"original_max_position_embeddings", 64}};
  const ModelConfig a = read(old_keys);
  const ModelConfig b = read(new_keys);
  EXPECT_EQ(a.rope_scaling.kind, RopeScaling::Kind::yarn);
  EXPECT_EQ(b.rope_scaling.kind, RopeScaling::Kind::yarn);
  EXPECT_EQ(a.rope_theta, b.rope_theta);
  EXPECT_EQ(a.rope_scaling.factor, b.rope_scaling.factor);
  EXPECT_EQ(a.rope_scaling.original_window, 64);
  EXPECT_EQ(b.rope_scaling.original_window, 64);
  EXPECT_NEAR(a.rope_scaling.attention_factor, 0.1 * std::log(4.0) + 1, 1e-12);
}

struct Refusal {
  const char* name;
  json change;       // merged into the plain configuration
  const char* word;  // the message names it
};

void PrintTo(const Refusal& refusal, std::ostream* out) { *out << refusal.name; }

class ConfigRefuses : public testing::TestWithParam<Refusal> {};

TEST_P(ConfigRefuses, WithAnInputErrorThatNamesIt) {
  json config = plain_config();
  config.merge_patch(GetParam().change);
  try {
    read(config);
    FAIL() << "was accepted";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::input);
    EXPECT_NE(std::string(error.what()).find(GetParam().word), std::string::npos) << error.what();
    EXPECT_NE(std::string(error.what()).find("config.json"), std::string::npos) << error.what();
    EXPECT_EQ(std::string(error.what()).find('\n'), std::string::npos);
  }
}

INSTANTIATE_TEST_SUITE_P(
    Table, ConfigRefuses,
    testing::Values(
        Refusal{"Family", {{"model_type", "gpt_neox"}}, "gpt_neox"},
        Refusal{"NoFamily", {{"model_type", nullptr}}, "model_type"},
        Refusal{"SlidingWindow", {{"use_sliding_window", true}}, "sliding"},
        Refusal{"LayerTypes", {{"layer_types", {"sliding_attention"}}}, "layer_types"},
        Refusal{"MlpBias", {{"mlp_bias", true}}, "mlp_bias"},
        Refusal{"Activation", {{"hidden_act", "gelu"}}, "gelu"},
        Refusal{"Quantised", {{"quantization_config", {{"bits", 4}}}}, "quantization_config"},
        Refusal{"NoHidden", {{"hidden_size", nullptr}}, "hidden_size"},
        Refusal{"ZeroHeads", {{"num_attention_heads", 0}}, "num_attention_heads"},
        Refusal{"ZeroKvHeads", {{"num_key_value_heads", 0}}, "key/value heads"},
        Refusal{"MoreKvHeads", {{"num_key_value_heads", 8}}, "key/value heads"},
        Refusal{"UnevenHeads", {{"num_key_value_heads", 3}}, "multiple"},
        Refusal{"OddHead", {{"head_dim", 15}}, "odd"},
        Refusal{"NegativeLayers", {{"num_hidden_layers", -1}}, "layers"},
        Refusal{"HugeHidden", {{"hidden_size", 1LL << 62}}, "hidden"},
        Refusal{"HugeVocab", {{"vocab_size", 1LL << 40}}, "vocabulary"},
        Refusal{"Fraction", {{"hidden_size", 64.5}}, "hidden_size"},
        Refusal{"Word", {{"hidden_size", "64"}}, "hidden_size"},
        Refusal{"Epsilon", {{"rms_norm_eps", -1.0}}, "epsilon"},
        Refusal{"Theta", {{"rope_theta", 0.0}}, "RoPE base"},
        Refusal{"Window", {{"max_position_embeddings", 0}}, "window"},
        Refusal{"RopeKind", {{"rope_scaling", {{"rope_type", "longrope"}}}}, "longrope"},
        Refusal{
            "RopeFactor", {{"rope_scaling", {{"rope_type", "linear"}, {"factor", 0.0}}}}, "factor"},
        Refusal{"RopeFreqs",
                {{"rope_scaling",
                  {{"rope_type", "llama3"},
                   {"factor", 8.0},
                   {"low_freq_factor", 4.0},
                   {"high_freq_factor", 4.0}}}},
                "high_freq_factor"},
        Refusal{"RopePerLayer",
                {{"rope_parameters", {{"full_attention", {{"rope_theta", 1e4}}}}}},
                "full_attention"},
        Refusal{"RopeList", {{"rope_scaling", {1, 2}}}, "rope_scaling"},
        Refusal{"PartialRotary", {{"partial_rotary_factor", 0.5}}, "partial_rotary_factor"}),
    [](const auto& info) { return info.param.name; });

TEST(Config, RefusesTextThatIsNoObject) {
  const test::TempDir dir;
  for (const char* text : {"", "[]", "3", "{\"hidden_size\":", "null"}) {
    test::write_bytes(dir.path() / "config.json", text);
    EXPECT_THROW(read_config(dir.path()), Error) << text;
  }
}

TEST(Config, IsTheSameFromBothFileForms) {
  const ModelConfig hf = read_config(test::models_dir() / "qwen3");
  const ModelConfig gguf =
      read_config(core::GgufFile::open(test::models_dir() / "qwen3-f32" / "model.gguf"));
  EXPECT_EQ(hf.family, gguf.family);
  EXPECT_EQ(hf.hidden, gguf.hidden);
  EXPECT_EQ(hf.intermediate, gguf.intermediate);
  EXPECT_EQ(hf.num_layers, gguf.num_layers);
  EXPECT_EQ(hf.num_heads, gguf.num_heads);
  EXPECT_EQ(hf.num_kv_heads, gguf.num_kv_heads);
  EXPECT_EQ(hf.head_dim, gguf.head_dim);
  EXPECT_EQ(hf.vocab, gguf.vocab);
  EXPECT_EQ(hf.trained_window, gguf.trained_window);
  EXPECT_EQ(hf.rope_theta, gguf.rope_theta);
  EXPECT_EQ(hf.tied_output, gguf.tied_output);
  EXPECT_EQ(hf.qkv_bias, gguf.qkv_bias);
  EXPECT_NEAR(hf.rms_eps, gguf.rms_eps, 1e-12);
}

}  // namespace
}  // namespace gsa::model
