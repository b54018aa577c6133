#include "model/config.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <utility>

#include "core/error.h"
#include "core/file.h"
#include "core/gguf.h"
#include "core/json.h"
#include "core/utf8.h"

namespace gsa::model {
namespace {

using core::input_error;
using nlohmann::json;

// Above every published model of these families; products of any two fit in 64 bits with room.
constexpr std::int64_t max_hidden = 1 << 17;
constexpr std::int64_t max_intermediate = 1 << 20;
constexpr std::int64_t max_layers = 1024;
constexpr std::int64_t max_heads = 1024;
constexpr std::int64_t max_head_dim = 1024;
constexpr std::int64_t max_vocab = 1 << 22;
constexpr std::int64_t max_window = std::int64_t{1} << 31;

/// Family of an architecture name, which GGUF and Hugging Face spell alike.
Family parse_family(std::string_view name, std::string_view where) {
  for (const Family family : {Family::llama, Family::qwen2, Family::qwen3}) {
    if (name == family_name(family)) return family;
  }
  input_error("model: {}: architecture '{}' is not supported; llama, qwen2 and qwen3 are", where,
              core::printable(name));
}

RopeScaling::Kind parse_scaling_kind(std::string_view name, std::string_view where) {
  if (name == "none" || name == "default") return RopeScaling::Kind::none;
  if (name == "linear") return RopeScaling::Kind::linear;
  if (name == "llama3") return RopeScaling::Kind::llama3;
  if (name == "yarn") return RopeScaling::Kind::yarn;
  input_error("model: {}: RoPE scaling '{}' is not supported; linear, llama3 and yarn are", where,
              core::printable(name));
}

/// YaRN's factor on cosine and sine for a window stretched `factor` times.
double yarn_mscale(double factor, double weight = 1) {
  return factor <= 1 ? 1 : 0.1 * weight * std::log(factor) + 1;
}

void check_range(std::int64_t value, std::int64_t max, std::string_view what,
                 std::string_view where) {
  if (value < 1 || value > max) {
    input_error("model: {}: {} is {}, it has to be 1 to {}; the file is damaged or not supported",
                where, what, value, max);
  }
}

void check_range(double value, double min, double max, std::string_view what,
                 std::string_view where) {
  if (!(value >= min && value <= max)) {  // also false for NaN
    input_error("model: {}: {} is {}, it has to be {} to {}; the file is damaged or not supported",
                where, what, value, min, max);
  }
}

void check_scaling(const RopeScaling& scaling, std::string_view where) {
  if (scaling.kind == RopeScaling::Kind::none) return;
  check_range(scaling.factor, 1, 1e4, "the RoPE scaling factor", where);
  if (scaling.kind == RopeScaling::Kind::linear) return;
  if (!scaling.freq_factors.empty()) {
    for (const float factor : scaling.freq_factors) {
      check_range(factor, 1e-4, 1e6, "a RoPE frequency factor", where);
    }
    return;
  }
  check_range(scaling.original_window, max_window, "the original window of RoPE scaling", where);
  if (scaling.kind == RopeScaling::Kind::llama3) {
    check_range(scaling.low_freq_factor, 1e-3, 1e6, "low_freq_factor", where);
    check_range(scaling.high_freq_factor, scaling.low_freq_factor * 1.0001, 1e7, "high_freq_factor",
                where);
  } else {
    check_range(scaling.beta_slow, 1e-3, 1e6, "beta_slow", where);
    check_range(scaling.beta_fast, scaling.beta_slow, 1e7, "beta_fast", where);
    check_range(scaling.attention_factor, 1e-3, 1e3, "attention_factor", where);
  }
}

void check(const ModelConfig& config, std::string_view where) {
  check_range(config.hidden, max_hidden, "the hidden size", where);
  check_range(config.intermediate, max_intermediate, "the intermediate size", where);
  check_range(config.num_layers, max_layers, "the number of layers", where);
  check_range(config.num_heads, max_heads, "the number of heads", where);
  check_range(config.num_kv_heads, config.num_heads, "the number of key/value heads", where);
  check_range(config.head_dim, max_head_dim, "the head size", where);
  check_range(config.vocab, max_vocab, "the vocabulary size", where);
  check_range(config.trained_window, max_window, "the trained window", where);
  check_range(config.rms_eps, 0, 1, "the epsilon of the RMS norms", where);
  check_range(config.rope_theta, 1.0001, 1e15, "the RoPE base", where);
  if (config.num_heads % config.num_kv_heads != 0) {
    input_error("model: {}: {} heads are no multiple of {} key/value heads; the file is damaged",
                where, config.num_heads, config.num_kv_heads);
  }
  if (config.head_dim % 2 != 0) {
    input_error("model: {}: head size {} is odd, RoPE rotates pairs; the file is damaged", where,
                config.head_dim);
  }
  check_scaling(config.rope_scaling, where);
}

/// Metadata of one architecture in a GGUF file.
class GgufKeys {
 public:
  GgufKeys(const core::GgufFile& file, std::string arch) : file_(file), arch_(std::move(arch)) {}

  bool has(std::string_view key) const { return file_.has(full(key)); }

  std::int64_t size(std::string_view key) const { return narrow(file_.get_uint(full(key))); }
  std::int64_t size_or(std::string_view key, std::int64_t fallback) const {
    return has(key) ? size(key) : fallback;
  }
  double number(std::string_view key) const { return file_.get_float(full(key)); }
  double number_or(std::string_view key, double fallback) const {
    return file_.get_float_or(full(key), fallback);
  }
  std::string string_or(std::string_view key, std::string fallback) const {
    return file_.get_string_or(full(key), std::move(fallback));
  }

  /// Input error if a feature's key is there with a value other than zero.
  void refuse(std::string_view key, std::string_view feature) const {
    if (number_or(key, 0) != 0) {
      input_error("model: {}: {} ({}) is not supported; use another model", file_.path().string(),
                  feature, full(key));
    }
  }

 private:
  std::string full(std::string_view key) const { return fmt::format("{}.{}", arch_, key); }

  static std::int64_t narrow(std::uint64_t value) {
    constexpr auto max = std::numeric_limits<std::int64_t>::max();
    return value > static_cast<std::uint64_t>(max) ? max : static_cast<std::int64_t>(value);
  }

  const core::GgufFile& file_;
  std::string arch_;
};

/// The divisors that converters write for llama3 scaling instead of its parameters.
std::vector<float> read_freq_factors(const core::GgufTensor& tensor, std::int64_t head_dim,
                                     std::string_view where) {
  if (tensor.type != core::DataType::f32 ||
      tensor.shape != std::vector<std::int64_t>{head_dim / 2}) {
    input_error("model: {}: tensor '{}' has to hold {} f32 values; the file is damaged", where,
                tensor.name, head_dim / 2);
  }
  std::vector<float> factors(static_cast<std::size_t>(head_dim / 2));
  core::dequantize(tensor.type, tensor.data, factors);
  return factors;
}

RopeScaling read_scaling(const core::GgufFile& file, const GgufKeys& keys,
                         const ModelConfig& config) {
  const std::string where = file.path().string();
  RopeScaling scaling;
  scaling.kind = parse_scaling_kind(keys.string_or("rope.scaling.type", "none"), where);
  scaling.factor = keys.number_or("rope.scaling.factor", 1);
  scaling.original_window =
      keys.size_or("rope.scaling.original_context_length", config.trained_window);
  if (const core::GgufTensor* factors = file.find_tensor("rope_freqs.weight")) {
    if (scaling.kind != RopeScaling::Kind::none && scaling.kind != RopeScaling::Kind::llama3) {
      input_error("model: {}: rope_freqs.weight beside another RoPE scaling is not supported",
                  where);
    }
    scaling.kind = RopeScaling::Kind::llama3;
    scaling.freq_factors = read_freq_factors(*factors, config.head_dim, where);
  } else if (scaling.kind == RopeScaling::Kind::llama3) {
    input_error("model: {}: RoPE scaling llama3 without rope_freqs.weight; convert the model again",
                where);
  }
  if (scaling.kind == RopeScaling::Kind::yarn) {
    scaling.beta_fast = keys.number_or("rope.scaling.yarn_beta_fast", scaling.beta_fast);
    scaling.beta_slow = keys.number_or("rope.scaling.yarn_beta_slow", scaling.beta_slow);
    scaling.attention_factor =
        yarn_mscale(scaling.factor) * keys.number_or("rope.scaling.attn_factor", 1);
  }
  return scaling;
}

/// The scaling parameters in a config.json: `rope_parameters` (transformers 5) or `rope_scaling`.
void read_rope(const json& root, ModelConfig& config, const std::string& where) {
  const auto find_object = [&](const char* key) -> json {
    const auto entry = root.find(key);
    if (entry == root.end() || entry->is_null()) return json::object();
    if (!entry->is_object()) input_error("model: {}: '{}' has to be an object", where, key);
    return *entry;
  };
  json rope = find_object("rope_parameters");
  if (rope.empty()) rope = find_object("rope_scaling");
  for (const auto& [key, value] : rope.items()) {
    if (value.is_object()) {
      input_error("model: {}: RoPE that differs between layers ('{}') is not supported", where,
                  core::printable(key));
    }
  }
  const auto number = [&](const char* key, double fallback) {
    return core::find_float(rope, key, where).value_or(fallback);
  };

  config.rope_theta =
      number("rope_theta", core::find_float(root, "rope_theta", where).value_or(10000));
  const double rotary_part = number(
      "partial_rotary_factor", core::find_float(root, "partial_rotary_factor", where).value_or(1));
  if (rotary_part != 1) {
    input_error("model: {}: partial_rotary_factor {} is not supported; only 1 is", where,
                rotary_part);
  }

  RopeScaling& scaling = config.rope_scaling;
  auto kind = core::find_string(rope, "rope_type", where);
  if (!kind) kind = core::find_string(rope, "type", where);
  scaling.kind = parse_scaling_kind(kind.value_or("default"), where);
  scaling.original_window =
      core::find_int(root, "original_max_position_embeddings", where)
          .value_or(core::find_int(rope, "original_max_position_embeddings", where)
                        .value_or(config.trained_window));
  // YaRN's factor follows from the windows where it is not given.
  const double window_ratio =
      static_cast<double>(config.trained_window) /
      static_cast<double>(std::max<std::int64_t>(scaling.original_window, 1));
  scaling.factor = number("factor", scaling.kind == RopeScaling::Kind::yarn ? window_ratio : 1);
  scaling.low_freq_factor = number("low_freq_factor", scaling.low_freq_factor);
  scaling.high_freq_factor = number("high_freq_factor", scaling.high_freq_factor);
  if (scaling.kind == RopeScaling::Kind::yarn) {
    scaling.beta_fast = number("beta_fast", scaling.beta_fast);
    scaling.beta_slow = number("beta_slow", scaling.beta_slow);
    scaling.truncate = core::find_bool(rope, "truncate", where).value_or(true);
    const double mscale = number("mscale", 0);
    const double mscale_all = number("mscale_all_dim", 0);
    const double derived =
        mscale != 0 && mscale_all != 0
            ? yarn_mscale(scaling.factor, mscale) / yarn_mscale(scaling.factor, mscale_all)
            : yarn_mscale(scaling.factor);
    scaling.attention_factor = number("attention_factor", derived);
  }
}

/// Refuses what the forward does not have, so that no answer is silently wrong.
void refuse_unknown_features(const json& root, const std::string& where) {
  const auto refuse = [&](std::string_view feature) {
    input_error("model: {}: {} is not supported; use another model", where, feature);
  };
  if (core::find_bool(root, "use_sliding_window", where).value_or(false)) {
    refuse("sliding window attention (use_sliding_window)");
  }
  if (const auto types = root.find("layer_types"); types != root.end() && types->is_array()) {
    for (const json& type : *types) {
      if (type != "full_attention") refuse("attention other than full_attention (layer_types)");
    }
  }
  if (core::find_bool(root, "mlp_bias", where).value_or(false))
    refuse("a bias in the MLP (mlp_bias)");
  const auto activation = core::find_string(root, "hidden_act", where).value_or("silu");
  if (activation != "silu") {
    refuse(fmt::format("the activation '{}' (hidden_act)", core::printable(activation)));
  }
  if (const auto quantised = root.find("quantization_config");
      quantised != root.end() && !quantised->is_null()) {
    refuse("a quantised safetensors checkpoint (quantization_config)");
  }
}

}  // namespace

std::string_view family_name(Family family) {
  switch (family) {
    case Family::llama:
      return "llama";
    case Family::qwen2:
      return "qwen2";
    case Family::qwen3:
      return "qwen3";
  }
  core::internal_error("model: unknown family {}", static_cast<int>(family));
}

ModelConfig read_config(const core::GgufFile& file) {
  const std::string where = file.path().string();
  const std::string& arch = file.get_string("general.architecture");
  ModelConfig config;
  config.family = parse_family(arch, where);
  const GgufKeys keys(file, arch);
  keys.refuse("attention.sliding_window", "sliding window attention");
  keys.refuse("expert_count", "a mixture of experts");
  keys.refuse("logit_scale", "a logit scale");
  keys.refuse("attention.scale", "an attention scale of its own");

  config.hidden = keys.size("embedding_length");
  config.intermediate = keys.size("feed_forward_length");
  config.num_layers = keys.size("block_count");
  config.num_heads = keys.size("attention.head_count");
  config.num_kv_heads = keys.size_or("attention.head_count_kv", config.num_heads);
  check_range(config.num_heads, max_heads, "the number of heads", where);  // before dividing
  config.head_dim = keys.size_or("attention.key_length", config.hidden / config.num_heads);
  for (const char* key : {"attention.value_length", "rope.dimension_count"}) {
    if (const std::int64_t size = keys.size_or(key, config.head_dim); size != config.head_dim) {
      input_error("model: {}: {} is {} beside a head size of {}; different sizes are not supported",
                  where, key, size, config.head_dim);
    }
  }
  const core::GgufTensor& embedding = file.tensor("token_embd.weight");
  config.vocab = embedding.shape.size() == 2 ? embedding.shape[0] : 0;
  config.rms_eps = keys.number("attention.layer_norm_rms_epsilon");
  config.rope_theta = keys.number_or("rope.freq_base", 10000);
  config.trained_window = keys.size("context_length");
  config.tied_output = file.find_tensor("output.weight") == nullptr;
  config.qkv_bias = file.find_tensor("blk.0.attn_q.bias") != nullptr;
  config.o_bias = file.find_tensor("blk.0.attn_output.bias") != nullptr;
  config.qk_norm = config.family == Family::qwen3;
  config.merged_adapter = file.get_string_or(gguf_merged_key, "");
  config.rope_scaling = read_scaling(file, keys, config);
  check(config, where);
  return config;
}

ModelConfig read_config(const std::filesystem::path& directory) {
  const std::filesystem::path path = directory / "config.json";
  const std::string where = path.string();
  const json root = core::parse_json(core::read_file(path), where);
  const auto size = [&](const char* key) {
    const auto value = core::find_int(root, key, where);
    if (!value) input_error("model: {}: '{}' is missing; the file is damaged", where, key);
    return *value;
  };

  ModelConfig config;
  config.family =
      parse_family(core::find_string(root, "model_type", where).value_or("(no model_type)"), where);
  refuse_unknown_features(root, where);
  config.hidden = size("hidden_size");
  config.intermediate = size("intermediate_size");
  config.num_layers = size("num_hidden_layers");
  config.num_heads = size("num_attention_heads");
  config.num_kv_heads =
      core::find_int(root, "num_key_value_heads", where).value_or(config.num_heads);
  check_range(config.num_heads, max_heads, "num_attention_heads", where);  // before dividing
  const std::int64_t default_head_dim =
      config.family == Family::qwen3 ? 128 : config.hidden / config.num_heads;
  config.head_dim = core::find_int(root, "head_dim", where).value_or(default_head_dim);
  config.vocab = size("vocab_size");
  config.rms_eps = core::find_float(root, "rms_norm_eps", where).value_or(1e-6);
  config.trained_window = size("max_position_embeddings");
  config.tied_output = core::find_bool(root, "tie_word_embeddings", where).value_or(false);
  const bool attention_bias = core::find_bool(root, "attention_bias", where).value_or(false);
  config.qkv_bias = config.family == Family::qwen2 || attention_bias;
  config.o_bias = config.family != Family::qwen2 && attention_bias;
  config.qk_norm = config.family == Family::qwen3;
  config.merged_adapter = core::find_string(root, hugging_face_merged_key, where).value_or("");
  read_rope(root, config, where);
  check(config, where);
  return config;
}

}  // namespace gsa::model
