#pragma once

#include <ATen/core/Tensor.h>

#include <array>
#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "attention/layout.h"
#include "model/config.h"

namespace gsa::model {

/// Projections of a layer that an adapter may update, in Hugging Face names.
enum class LoraTarget { q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj };
inline constexpr std::array kLoraTargets = {
    LoraTarget::q_proj,    LoraTarget::k_proj,  LoraTarget::v_proj,   LoraTarget::o_proj,
    LoraTarget::gate_proj, LoraTarget::up_proj, LoraTarget::down_proj};

std::string_view lora_target_name(LoraTarget target);
/// Shape [out, in] of a projection.
std::pair<std::int64_t, std::int64_t> lora_target_shape(const ModelConfig& config,
                                                        LoraTarget target);

/// What a gist of level l starts from, in the embeddings that go into the first layer.
enum class GistInput {
  row,      ///< the learned row of its level
  content,  ///< the same plus the mean embedding of all raw tokens under it
};
inline constexpr std::array kGistInputs = {GistInput::row, GistInput::content};

/// row, content
std::string_view gist_input_name(GistInput input);
/// Input error for other names.
GistInput parse_gist_input(std::string_view name);

/// What an adapter says about itself.
struct AdapterInfo {
  std::string name;  ///< file name without folder and ending; empty if it was not loaded from one
  std::string base_fingerprint;                    ///< of the model it was trained on
  std::vector<attention::ChunkSizes> chunk_sizes;  ///< seen in training; empty: not told
  std::int64_t num_gist_rows = 0;                  ///< rows of the gist embeddings
  GistInput gist_input = GistInput::row;
  std::int64_t lora_rank = 0;  ///< 0: gist embeddings only
  double lora_alpha = 0;       ///< updates are scaled by alpha / rank
  std::vector<LoraTarget> lora_targets;
  /// How its gists are used, for `PolicySpec::with_defaults`; empty: not told.
  std::string policy_keys;
  std::string recipe;       ///< free text: how it was trained
  std::string data_digest;  ///< of the data it was trained on, one per stage; may be empty
  std::string scores;       ///< what it reached, as JSON; may be empty

  double lora_scale() const {
    return lora_rank == 0 ? 0 : lora_alpha / static_cast<double>(lora_rank);
  }
};

/// Low-rank factors of one projection.
struct LoraFactors {
  at::Tensor a;  // [r, in]
  at::Tensor b;  // [out, r]
};

/// What training adds to a base model: an embedding per gist level and optional low-rank updates.
struct Adapter {
  AdapterInfo info;
  at::Tensor
      gist_embeddings;  // [num_gist_rows, hidden]; level l uses row min(l, num_gist_rows - 1)
  std::map<std::pair<std::int64_t, LoraTarget>, LoraFactors> loras;  ///< by layer and projection

  /// Reads a safetensors file (f32, f16 or bf16 tensors, all kept as f32). Input error for a
  /// damaged file or one that contradicts itself; whether it fits a model is told by `check_fits`.
  static Adapter load(const std::filesystem::path& path);

  /// Input error that names both fingerprints if the adapter belongs to another base, or the tensor
  /// whose shape does not fit.
  void check_fits(const ModelConfig& config, std::string_view fingerprint) const;

  /// Writes the file beside `path` and renames it into place; `dtype` is f32, f16 or bf16.
  void save(const std::filesystem::path& path, at::ScalarType dtype = at::kFloat) const;
};

}  // namespace gsa::model
