#pragma once

#include <c10/core/ScalarType.h>

#include <filesystem>

#include "model/adapter.h"
#include "model/model.h"

namespace gsa::model {

struct MergeOptions {
  at::ScalarType dtype = at::kBFloat16;  ///< of the matrices in the file: f32, f16 or bf16
  bool has_new_weights = false;          ///< the model's own weights are not those of its source
};

/// Writes a model with its low-rank updates folded into the weights, in the container of the one it
/// was made from: a GGUF file if `source` is one (its metadata copied as they are, rows of q and k
/// in the order of its architecture), else a Hugging Face directory (the other files of `source`
/// copied, `model.safetensors` new). Vectors are written as f32. Gist embeddings are no part of it:
/// `save_gists`.
///
/// If updates were folded in or the weights are new, a digest of them marks the result
/// (`ModelConfig::merged_adapter`): it has another fingerprint than the base and refuses its
/// adapters.
///
/// `source` is the file or directory that the model's base was loaded from. Input error if `out` is
/// `source`, or a directory that is not empty; resource error if writing fails.
void save_merged(const Model& model, const std::filesystem::path& source,
                 const std::filesystem::path& out, const MergeOptions& options);

/// What `Model::merged` changes beside the updates themselves, since it rounds the weights of packed
/// matrices to Q8_0: root mean squares over all matrices with updates. Blocks are expanded to bf16
/// for the comparison, which is a part of it: 0.1 % of the weights.
struct MergeRounding {
  double of_weights = 0;  ///< rounding, relative to the weights
  double of_updates = 0;  ///< rounding, relative to the updates
};

/// Compares a model with updates beside its weights and the same model merged.
MergeRounding merge_rounding(const Model& adapted, const Model& merged);

/// Where the gists of a merged model lie: `gists.safetensors` in a directory, else beside the file.
std::filesystem::path gists_path(const std::filesystem::path& merged);

/// Writes the gist embeddings of an adapter as one of their own, which belongs to the merged model.
void save_gists(Adapter adapter, const std::filesystem::path& merged,
                const std::filesystem::path& out, at::ScalarType dtype);

}  // namespace gsa::model
