#include "engine/tiny_model.h"

#include <ATen/Parallel.h>
#include <unistd.h>

#include <cmath>
#include <cstdlib>
#include <deque>
#include <fstream>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <vector>

#include "core/rng.h"
#include "core/safetensors.h"

namespace gsa::engine::test {
namespace {

using nlohmann::json;

constexpr std::int64_t kNumBytes = 256;

std::string encode_utf8(unsigned code_point) {
  if (code_point < 0x80) return {static_cast<char>(code_point)};
  return {static_cast<char>(0xC0 | (code_point >> 6)),
          static_cast<char>(0x80 | (code_point & 0x3F))};
}

/// GPT-2's printable stand-in for a byte.
std::string byte_symbol(unsigned byte) {
  unsigned next = 256;
  for (unsigned b = 0; b < 256; ++b) {
    const bool is_printable = (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
    const unsigned code_point = is_printable ? b : next++;
    if (b == byte) return encode_utf8(code_point);
  }
  throw std::logic_error("not a byte");
}

json make_tokenizer() {
  json vocab = json::object(), added = json::array();
  for (unsigned byte = 0; byte < kNumBytes; ++byte) vocab[byte_symbol(byte)] = byte;
  std::int64_t id = kNumBytes;
  for (const char* name : {"<|endoftext|>", "<|im_start|>", "<|im_end|>"}) {
    added.push_back({{"id", id++}, {"content", name}, {"special", true}});
  }
  return {
      {"version", "1.0"},
      {"added_tokens", added},
      {"normalizer", nullptr},
      {"pre_tokenizer", {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", true}}},
      {"post_processor", nullptr},
      {"decoder", {{"type", "ByteLevel"}}},
      {"model", {{"type", "BPE"}, {"vocab", vocab}, {"merges", json::array()}}}};
}

/// Collects random tensors and writes them as one file.
class WeightWriter {
 public:
  explicit WeightWriter(std::uint64_t seed) : rng_(seed) {}

  /// Values around `mean` with a spread that keeps activations of order one.
  void add(std::string name, std::vector<std::int64_t> shape, float mean, float spread) {
    std::int64_t count = 1;
    for (const std::int64_t len : shape) count *= len;
    auto& values = data_.emplace_back(count);
    for (float& value : values) value = mean + spread * (2 * rng_.uniform() - 1);
    tensors_.push_back(
        {std::move(name), "F32", std::move(shape), std::as_bytes(std::span(values))});
  }
  void add_matrix(std::string name, std::int64_t num_rows, std::int64_t num_cols) {
    add(std::move(name), {num_rows, num_cols}, 0, 2.5F / std::sqrt(static_cast<float>(num_cols)));
  }
  void add_norm(std::string name, std::int64_t len) { add(std::move(name), {len}, 1, 0.3F); }

  void write(const std::filesystem::path& path) const {
    core::write_safetensors(path, tensors_, {{"format", "pt"}});
  }

 private:
  core::Rng rng_;
  std::deque<std::vector<float>> data_;
  std::vector<core::SafeTensor> tensors_;
};

void write_json(const std::filesystem::path& path, const json& value) {
  std::ofstream(path) << value.dump(1);
}

}  // namespace

void write_tiny_model(const std::filesystem::path& directory, const TinyModelOptions& o) {
  const std::int64_t vocab = kNumBytes + 8;  // a few rows of padding, as real models have
  write_json(directory / "config.json", {{"model_type", "llama"},
                                         {"architectures", {"LlamaForCausalLM"}},
                                         {"hidden_size", o.hidden},
                                         {"intermediate_size", o.intermediate},
                                         {"num_hidden_layers", o.num_layers},
                                         {"num_attention_heads", o.num_heads},
                                         {"num_key_value_heads", o.num_kv_heads},
                                         {"head_dim", o.head_dim},
                                         {"vocab_size", vocab},
                                         {"rms_norm_eps", 1e-5},
                                         {"rope_theta", 10000.0},
                                         {"max_position_embeddings", o.trained_window},
                                         {"tie_word_embeddings", false},
                                         {"hidden_act", "silu"}});
  write_json(directory / "tokenizer.json", make_tokenizer());
  json tokenizer_config = {{"eos_token", "<|im_end|>"}, {"bos_token", nullptr}};
  if (!o.chat_template.empty()) tokenizer_config["chat_template"] = o.chat_template;
  write_json(directory / "tokenizer_config.json", tokenizer_config);

  WeightWriter weights(o.seed);
  weights.add("model.embed_tokens.weight", {vocab, o.hidden}, 0, 1);
  for (std::int64_t layer = 0; layer < o.num_layers; ++layer) {
    const std::string prefix = "model.layers." + std::to_string(layer) + ".";
    weights.add_norm(prefix + "input_layernorm.weight", o.hidden);
    weights.add_matrix(prefix + "self_attn.q_proj.weight", o.num_heads * o.head_dim, o.hidden);
    weights.add_matrix(prefix + "self_attn.k_proj.weight", o.num_kv_heads * o.head_dim, o.hidden);
    weights.add_matrix(prefix + "self_attn.v_proj.weight", o.num_kv_heads * o.head_dim, o.hidden);
    weights.add_matrix(prefix + "self_attn.o_proj.weight", o.hidden, o.num_heads * o.head_dim);
    weights.add_norm(prefix + "post_attention_layernorm.weight", o.hidden);
    weights.add_matrix(prefix + "mlp.gate_proj.weight", o.intermediate, o.hidden);
    weights.add_matrix(prefix + "mlp.up_proj.weight", o.intermediate, o.hidden);
    weights.add_matrix(prefix + "mlp.down_proj.weight", o.hidden, o.intermediate);
  }
  weights.add_norm("model.norm.weight", o.hidden);
  weights.add_matrix("lm_head.weight", vocab, o.hidden);
  weights.write(directory / "model.safetensors");
}

std::shared_ptr<const model::Model> load_tiny_model(const TinyModelOptions& options) {
  at::set_num_threads(1);  // handing out work this small takes longer than doing it
  const ScratchDirectory scratch;
  write_tiny_model(scratch.path(), options);
  return model::Model::load(scratch.path(), {.device = at::kCPU, .dtype = at::kFloat});
}

const std::shared_ptr<const model::Model>& tiny_model() {
  static const auto model = load_tiny_model();
  return model;
}

ScratchDirectory::ScratchDirectory() {
  std::string pattern = (std::filesystem::temp_directory_path() / "gsa-test-XXXXXX").string();
  if (mkdtemp(pattern.data()) == nullptr) throw std::runtime_error("cannot make " + pattern);
  path_ = pattern;
}

ScratchDirectory::~ScratchDirectory() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

std::string random_text(std::int64_t num_chars, std::uint64_t seed) {
  core::Rng rng(seed);
  std::string text;
  while (static_cast<std::int64_t>(text.size()) < num_chars) {
    for (std::uint32_t len = 1 + rng.below(9); len > 0; --len)
      text += static_cast<char>('a' + rng.below(26));
    if (rng.below(6) == 0) text += '.';
    text += ' ';
  }
  text.resize(num_chars);
  return text;
}

}  // namespace gsa::engine::test
