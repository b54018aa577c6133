#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

namespace gsa::core {
class GgufFile;
}

namespace gsa::model {

enum class Family { llama, qwen2, qwen3 };

std::string_view family_name(Family family);

/// How the rotary frequencies were stretched beyond the window of pretraining.
struct RopeScaling {
  enum class Kind { none, linear, llama3, yarn };
  Kind kind = Kind::none;
  double factor = 1;
  std::int64_t original_window = 0;  ///< llama3, yarn: window before stretching
  double low_freq_factor = 1;        ///< llama3
  double high_freq_factor = 4;       ///< llama3
  double beta_fast = 32;             ///< yarn
  double beta_slow = 1;              ///< yarn
  double attention_factor = 1;       ///< yarn: multiplies cosine and sine
  bool truncate = true;              ///< yarn: round the borders of the ramp
  /// llama3 from GGUF: the finished divisor of every frequency, [head_dim / 2]; else empty.
  std::vector<float> freq_factors;
};

/// Shapes and constants of a decoder of the Llama, Qwen2 or Qwen3 family. An object made by the
/// readers below is valid: nothing divides by zero, sizes are within caps, features that the
/// forward does not have were refused.
struct ModelConfig {
  Family family = Family::llama;
  std::int64_t hidden = 0;
  std::int64_t intermediate = 0;
  std::int64_t num_layers = 0;
  std::int64_t num_heads = 0;     ///< H
  std::int64_t num_kv_heads = 0;  ///< H_kv, divides H
  std::int64_t head_dim = 0;      ///< d, even; need not be hidden / H
  std::int64_t vocab = 0;         ///< rows of the embedding
  double rms_eps = 0;
  double rope_theta = 0;
  RopeScaling rope_scaling;
  std::int64_t trained_window = 0;  ///< longest position the model was trained for
  bool tied_output = false;         ///< the embedding is also the output matrix
  bool qkv_bias = false;
  bool o_bias = false;
  bool qk_norm = false;  ///< RMS norm of every query and key head before RoPE (Qwen3)
  /// Digest of what training has changed in the weights (see `save_merged`); empty: nothing known.
  std::string merged_adapter;

  std::int64_t q_size() const { return num_heads * head_dim; }
  std::int64_t kv_size() const { return num_kv_heads * head_dim; }
};

/// Where the two formats keep `ModelConfig::merged_adapter`: a string in the metadata of a GGUF
/// file or in config.json. It may be absent.
inline constexpr std::string_view gguf_merged_key = "gsa.merged_adapter";
inline constexpr std::string_view hugging_face_merged_key = "gsa_merged_adapter";

/// Reads and checks the configuration in the metadata of a GGUF file (architectures llama, qwen2,
/// qwen3). Input error that names the file and the key for anything missing, out of range or not
/// supported.
ModelConfig read_config(const core::GgufFile& file);

/// The same from `config.json` of a Hugging Face model directory.
ModelConfig read_config(const std::filesystem::path& directory);

}  // namespace gsa::model
