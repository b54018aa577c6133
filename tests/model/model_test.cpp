#include "model/model.h"

#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/randperm.h>
#include <ATen/ops/tensor.h>
#include <c10/core/InferenceMode.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <string>
#include <utility>

#include "attention/allocation_meter.h"
#include "core/rng.h"
#include "gsa/error.h"
#include "model/test_models.h"

namespace gsa::model {
namespace {

using test::load_test_model;
using test::read_tensor;
using test::relative_error;
using test::SequenceRunner;

constexpr std::array hf_models{"llama",      "llama-gqa",  "llama-linear",
                               "llama-yarn", "llama-bias", "llama-old-rope",
                               "qwen2",      "qwen2-yarn", "qwen3"};
constexpr std::array gguf_models{"llama-f32",        "llama-gqa-f16",  "llama-q8",
                                 "llama-linear-f32", "llama-bias-f32", "qwen2-f16",
                                 "qwen2-yarn-f32",   "qwen3-f32",      "qwen3-q8"};

/// A random adapter for a model, with gist embeddings for two levels.
Adapter random_adapter(const Model& model) {
  Adapter adapter;
  adapter.info.base_fingerprint = model.fingerprint();
  adapter.info.num_gist_rows = 2;
  adapter.info.lora_rank = 4;
  adapter.info.lora_alpha = 2;
  adapter.info.lora_targets = {LoraTarget::q_proj, LoraTarget::down_proj};
  adapter.gist_embeddings = at::randn({2, model.config().hidden});
  for (std::int64_t layer = 0; layer < model.config().num_layers; ++layer) {
    for (const LoraTarget target : adapter.info.lora_targets) {
      const auto [out, in] = lora_target_shape(model.config(), target);
      adapter.loras[{layer, target}] = {at::randn({4, in}).mul(0.1), at::randn({out, 4}).mul(0.5)};
    }
  }
  return adapter;
}

class ModelLogits : public testing::TestWithParam<const char*> {};

TEST_P(ModelLogits, EqualTransformers) {
  const c10::InferenceMode guard;
  const auto expected = test::models_dir() / GetParam() / "expected.safetensors";
  SequenceRunner runner(load_test_model(GetParam()), "full");
  const at::Tensor logits = runner.run(read_tensor(expected, "prompt"));
  // f32 on both sides, sums in another order.
  EXPECT_LT(relative_error(logits, read_tensor(expected, "logits")), 1e-4);
}

TEST_P(ModelLogits, InBf16AreNear) {
  const c10::InferenceMode guard;
  const auto expected = test::models_dir() / GetParam() / "expected.safetensors";
  SequenceRunner runner(load_test_model(GetParam(), at::kBFloat16), "full");
  const at::Tensor logits = runner.run(read_tensor(expected, "prompt"));
  const at::Tensor exact = read_tensor(expected, "logits");
  // Eight bits of precision through some ten operations a layer; single values may be off by more.
  EXPECT_LT(logits.sub(exact).norm().item<double>() / exact.norm().item<double>(), 3e-2);
}

std::string test_name(const testing::TestParamInfo<const char*>& info) {
  std::string name = info.param;
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
}
INSTANTIATE_TEST_SUITE_P(HuggingFace, ModelLogits, testing::ValuesIn(hf_models), test_name);
INSTANTIATE_TEST_SUITE_P(Gguf, ModelLogits, testing::ValuesIn(gguf_models), test_name);

TEST(Model, TokenByTokenEqualsAtOnce) {
  const c10::InferenceMode guard;
  const auto model = load_test_model("qwen3");
  const at::Tensor prompt =
      read_tensor(test::models_dir() / "qwen3" / "expected.safetensors", "prompt");
  const at::Tensor expected = SequenceRunner(model, "full").run(prompt);
  SequenceRunner runner(model, "full");
  EXPECT_LT(relative_error(runner.run(prompt.slice(0, 0, 100)), expected.slice(0, 0, 100)), 1e-5);
  for (std::int64_t i = 100; i < prompt.size(0); ++i) {
    ASSERT_LT(relative_error(runner.run(prompt.slice(0, i, i + 1)), expected.slice(0, i, i + 1)),
              1e-5);
  }
}

TEST(Model, ReturnsTheRowsAskedFor) {
  const c10::InferenceMode guard;
  const auto model = load_test_model("llama-gqa");
  const auto policy = attention::make_policy(attention::PolicySpec::parse("full"));
  const attention::Layout layout(policy->spec().layout);
  const at::Tensor tokens = at::randint(3, 300, {20}, at::kLong);
  attention::Batch batch;
  batch.tokens = tokens;
  batch.positions = at::arange(20, at::kLong);
  attention::BatchSequence sequence{&layout, policy.get(), nullptr, nullptr, {}};
  sequence.slices.push_back({.entries = {attention::kRawLevel, 0, 20}, .is_suffix = true});
  batch.sequences.push_back(std::move(sequence));
  const at::Tensor all = model->forward(batch);
  const at::Tensor rows = at::tensor({19, 3, 7}, at::kLong);
  EXPECT_LT(relative_error(model->forward(batch, {rows}), all.index_select(0, rows)), 1e-6);

  const at::Tensor no_rows = rows.slice(0, 0, 0);  // reading a document wants keys and values only
  for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {
    const auto base = load_test_model("llama-gqa", dtype);
    EXPECT_EQ(base->forward(batch, {no_rows}).size(0), 0);
    EXPECT_EQ(base->with_adapter(random_adapter(*base))->forward(batch, {no_rows}).size(0), 0);
  }
}

TEST(Model, GistsReadTheMeanEmbeddingUntilAnAdapterBringsTheirs) {
  const c10::InferenceMode guard;
  const auto base = load_test_model("llama");
  const at::Tensor document = at::randint(3, 300, {90}, at::kLong);
  const at::Tensor question = at::randint(3, 300, {10}, at::kLong);
  const auto ask = [&](const std::shared_ptr<const Model>& model) {
    SequenceRunner runner(model, "gsa@4-4");
    runner.read(document);
    return runner.run(question);
  };
  at::Tensor embedding;
  for (const auto& [name, tensor] : base->named_tensors()) {
    if (name == "embedding") embedding = tensor;
  }
  Adapter adapter;
  adapter.info.base_fingerprint = base->fingerprint();
  adapter.info.num_gist_rows = 1;
  adapter.gist_embeddings = embedding.mean(0, true);
  EXPECT_LT(relative_error(ask(base->with_adapter(adapter)), ask(base)), 1e-5);

  adapter.info.num_gist_rows = 2;  // the second level differs
  adapter.gist_embeddings = adapter.gist_embeddings.repeat({2, 1});
  adapter.gist_embeddings[1].normal_();
  EXPECT_GT(relative_error(ask(base->with_adapter(adapter)), ask(base)), 1e-3);
}

TEST(Model, ReadingInStepsEqualsOneRowWithoutAStore) {
  const c10::InferenceMode guard;
  const auto base = load_test_model("llama-gqa");
  Adapter adapter = random_adapter(*base);
  const at::Tensor document = at::randint(3, 300, {100}, at::kLong);
  const at::Tensor question = at::randint(3, 300, {12}, at::kLong);
  for (const GistInput input : kGistInputs) {
    adapter.info.gist_input = input;
    const auto model = base->with_adapter(adapter);
    for (const char* policy : {"full", "gsa@8", "gsa@4-4", "gist-only@8"}) {
      SequenceRunner runner(model, policy);
      runner.read(document);
      const at::Tensor in_steps = runner.run(question);
      const test::TrainingRow row(*model, policy, document, question);
      EXPECT_LT(relative_error(row.logits(*model), in_steps), 1e-5) << policy;
    }
  }
}

// A document whose chunks hold the same tokens, each in another order: all gists of a level start
// alike, as if their row were the learned one plus that mean.
TEST(Model, GistsStartFromTheirContent) {
  const c10::InferenceMode guard;
  const at::Tensor words = at::randint(3, 300, {4}, at::kLong);
  std::vector<at::Tensor> chunks;
  for (int chunk = 0; chunk < 24; ++chunk)
    chunks.push_back(words.index_select(0, at::randperm(4, at::kLong)));
  const at::Tensor document = at::cat(chunks), question = at::randint(3, 300, {10}, at::kLong);
  const char* policy = "gsa@4-4:sinks=0:cut=fixed";
  for (const char* name : {"llama-f32", "llama-q8"}) {
    for (const MatrixForm form : {MatrixForm::tensor, MatrixForm::packed}) {
      const auto base = Model::load(test::models_dir() / name / "model.gguf",
                                    {.device = at::kCPU, .dtype = at::kFloat, .form = form});
      const auto ask = [&](const Adapter& adapter) {
        SequenceRunner runner(base->with_adapter(adapter), policy);
        runner.read(document);
        return runner.run(question);
      };
      const Adapter learned = random_adapter(*base);
      Adapter content = learned, row = learned;
      content.info.gist_input = GistInput::content;
      const Linear& embedding = base->embedding();
      const at::Tensor of_words = embedding.packed() ? embedding.packed()->rows(words, at::kFloat)
                                                     : embedding.weight().index_select(0, words);
      row.gist_embeddings = learned.gist_embeddings.add(of_words.mean(0, true));
      EXPECT_LT(relative_error(ask(content), ask(row)), 1e-5) << name;
      EXPECT_GT(relative_error(ask(content), ask(learned)), 1e-3) << name;
    }
  }
}

TEST(Model, KeepsTheGistInputOfItsAdapter) {
  const auto base = load_test_model("llama");
  EXPECT_EQ(base->gist_input(), GistInput::row);
  Adapter adapter = random_adapter(*base);
  adapter.info.gist_input = GistInput::content;
  const auto model = base->with_adapter(adapter);
  EXPECT_EQ(model->gist_input(), GistInput::content);
  EXPECT_EQ(model->merged()->gist_input(), GistInput::content);
  EXPECT_EQ(model->with_adapter(random_adapter(*base))->gist_input(), GistInput::row);
}

TEST(Model, LoraEqualsMergedWeights) {
  const c10::InferenceMode guard;
  const auto base = load_test_model("llama");
  Adapter adapter;
  adapter.info.base_fingerprint = base->fingerprint();
  adapter.info.num_gist_rows = 1;
  adapter.info.lora_rank = 4;
  adapter.info.lora_alpha = 2;  // scale 0.5
  adapter.gist_embeddings = at::randn({1, base->config().hidden});
  for (std::int64_t layer = 0; layer < base->config().num_layers; ++layer) {
    for (const LoraTarget target : kLoraTargets) {
      const std::string name =
          "layers." + std::to_string(layer) + "." + std::string(lora_target_name(target));
      const auto file = test::models_dir() / "lora.safetensors";
      adapter.loras[{layer, target}] = {read_tensor(file, name + ".lora_A"),
                                        read_tensor(file, name + ".lora_B")};
    }
  }
  const auto expected = test::models_dir() / "lora-expected.safetensors";
  const at::Tensor prompt = read_tensor(expected, "prompt");
  const at::Tensor logits = read_tensor(expected, "logits");
  const auto model = base->with_adapter(adapter);
  EXPECT_LT(relative_error(SequenceRunner(model, "full").run(prompt), logits), 1e-4);
  EXPECT_LT(
      relative_error(SequenceRunner(model->with_adapter(adapter), "full").run(prompt), logits),
      1e-4);
  EXPECT_GT(relative_error(SequenceRunner(base, "full").run(prompt), logits), 1e-2);
}

TEST(Model, AdapterSharesTheBaseWeights) {
  const auto base = load_test_model("llama");
  const auto model = base->with_adapter(random_adapter(*base));
  ASSERT_NE(model->adapter(), nullptr);
  EXPECT_EQ(base->adapter(), nullptr);
  EXPECT_EQ(model->fingerprint(), base->fingerprint());
  for (const auto& [name, tensor] : base->named_tensors()) {
    if (name == "gist_embeddings") continue;
    bool is_shared = false;
    for (const auto& [other_name, other] : model->named_tensors()) {
      is_shared |= other_name == name && other.data_ptr() == tensor.data_ptr();
    }
    EXPECT_TRUE(is_shared) << name;
  }
  EXPECT_GT(model->weight_bytes(), base->weight_bytes());
}

// Heads are gone before gate and up are made, and what a step has used before the next one.
TEST(Model, ForwardHoldsWhatOneBlockNeeds) {
  const c10::InferenceMode guard;
  const auto model = load_test_model("llama");
  const ModelConfig& c = model->config();
  constexpr std::int64_t num_rows = 1024;
  const auto policy = attention::make_policy(attention::PolicySpec::parse("full"));
  attention::Layout layout(policy->spec().layout);
  layout.append(std::vector<std::uint8_t>(num_rows, 1));
  attention::KvStore store(model->kv_shape(0));
  store.reserve(attention::kRawLevel, num_rows);
  attention::Batch batch;
  attention::BatchSequence sequence{&layout, policy.get(), &store, nullptr, {}};
  attention::append_context(batch, sequence, std::vector<std::int64_t>(num_rows, 7), 0);
  batch.sequences.push_back(std::move(sequence));

  const attention::AllocationMeter meter;
  model->forward(batch);
  // RoPE's input and output beside x; a quarter is left for attention's own buffers. With all that
  // a layer makes held to its end it would be twice as much.
  const std::int64_t row_len = c.hidden + 2 * (c.q_size() + 2 * c.kv_size());
  EXPECT_LT(meter.peak_bytes(), num_rows * row_len * 4 * 5 / 4);
}

TEST(Model, FingerprintIsThatOfTheCheckpoint) {
  const std::string llama = load_test_model("llama")->fingerprint();
  EXPECT_EQ(llama.size(), 64U);
  EXPECT_EQ(load_test_model("llama", at::kBFloat16)->fingerprint(), llama);
  EXPECT_EQ(load_test_model("llama-f32")->fingerprint(), llama);
  EXPECT_EQ(load_test_model("llama-q8")->fingerprint(), llama);
  EXPECT_EQ(load_test_model("llama-gqa-f16")->fingerprint(),
            load_test_model("llama-gqa")->fingerprint());
  EXPECT_EQ(load_test_model("qwen3-q8")->fingerprint(), load_test_model("qwen3")->fingerprint());
  EXPECT_NE(load_test_model("llama-gqa")->fingerprint(), llama);
}

TEST(Model, RefusesAnAdapterOfAnotherBase) {
  const auto llama = load_test_model("llama");
  const auto other = load_test_model("llama-gqa");
  try {
    llama->with_adapter(random_adapter(*other));
    FAIL() << "was accepted";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find(llama->fingerprint()), std::string::npos);
    EXPECT_NE(std::string(error.what()).find(other->fingerprint()), std::string::npos);
  }
}

TEST(Model, RefusesWeightsThatTheConfigurationDoesNotDescribe) {
  const test::TempDir dir;
  std::filesystem::copy(test::models_dir() / "llama-bias", dir.path(),
                        std::filesystem::copy_options::recursive);
  const std::string config = test::read_bytes(dir.path() / "config.json");
  const auto error_with = [&](std::string_view from, std::string_view to) -> std::string {
    std::string changed = config;
    changed.replace(changed.find(from), from.size(), to);
    test::write_bytes(dir.path() / "config.json", changed);
    try {
      Model::load(dir.path(), {at::kCPU, at::kFloat});
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  };
  EXPECT_EQ(error_with("\"attention_bias\": true", "\"attention_bias\": true"), "");
  EXPECT_NE(error_with("\"attention_bias\": true", "\"attention_bias\": false").find("bias"),
            std::string::npos);
  EXPECT_NE(
      error_with("\"num_hidden_layers\": 2", "\"num_hidden_layers\": 1").find("model.layers.1"),
      std::string::npos);
  EXPECT_NE(
      error_with("\"num_hidden_layers\": 2", "\"num_hidden_layers\": 3").find("model.layers.2"),
      std::string::npos);
  EXPECT_NE(error_with("\"hidden_size\": 64", "\"hidden_size\": 68").find("shape"),
            std::string::npos);
  EXPECT_NE(error_with("\"vocab_size\": 320", "\"vocab_size\": 321").find("shape"),
            std::string::npos);
  EXPECT_THROW(Model::load(dir.path() / "nothing", {at::kCPU, at::kFloat}), Error);
}

TEST(Model, DamagedFilesGiveAnErrorOrAModel) {
  const test::TempDir dir;
  const auto path = dir.path() / "model.gguf";
  const std::string bytes = test::read_bytes(test::models_dir() / "qwen3-q8" / "model.gguf");
  const auto load = [&](std::string_view damaged) {
    test::write_bytes(path, damaged);
    try {
      Model::load(path, {at::kCPU, at::kFloat});
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::input) << error.what();
      EXPECT_EQ(std::string(error.what()).find('\n'), std::string::npos) << error.what();
      return false;
    }
    return true;
  };
  ASSERT_TRUE(load(bytes));
  core::Rng rng(1);
  for (int i = 0; i < 200; ++i) {
    EXPECT_FALSE(load(
        std::string_view(bytes).substr(0, rng.below(static_cast<std::uint32_t>(bytes.size())))));
  }
  const std::size_t header_len = bytes.find("output_norm.weight");
  int num_refused = 0;
  for (int i = 0; i < 1000; ++i) {
    std::string flipped = bytes;
    flipped[rng.below(static_cast<std::uint32_t>(header_len))] ^=
        static_cast<char>(1 << rng.below(8));
    num_refused += load(flipped) ? 0 : 1;
  }
  EXPECT_GT(num_refused, 100);  // most of the header is vocabulary, where a flip is another word
}

TEST(Model, ParsesDevicesAndDtypes) {
  EXPECT_EQ(parse_device("cpu"), at::Device(at::kCPU));
  EXPECT_EQ(parse_dtype("bf16", at::kCPU), at::kBFloat16);
  EXPECT_EQ(parse_dtype("auto", at::kCPU), default_dtype(at::kCPU));
  for (const char* word : {"", "gpu", "cuda:", "cuda:x", "cuda:-1", "cuda:999", "cpu:0"}) {
    EXPECT_THROW(parse_device(word), Error) << word;
  }
  EXPECT_THROW(parse_dtype("f16", at::kCPU), Error);
}

}  // namespace
}  // namespace gsa::model
