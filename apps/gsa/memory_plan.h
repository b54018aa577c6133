#pragma once

#include <cstdint>
#include <optional>

#include "attention/policy.h"
#include "model/model.h"

namespace gsa::apps {

/// What a context costs in memory, in bytes.
struct MemoryPlan {
  attention::ChunkSizes chunk_sizes;  ///< none: a context without gists
  std::int64_t num_context = 0;
  std::int64_t weights = 0;
  double raw_per_token = 0;               ///< keys and values of a raw token, all layers
  double gists_per_token = 0;             ///< of the gists that fold it
  double chunk_keys_per_token = 0;        ///< of what chunks are chosen by in place of their gists
  std::optional<std::int64_t> available;  ///< free beside the weights, which are loaded

  double context() const { return static_cast<double>(num_context) * per_token(); }
  double per_token() const { return raw_per_token + gists_per_token + chunk_keys_per_token; }
  double total() const { return static_cast<double>(weights) + context(); }
  /// Whether the context fits; true where the system does not tell what is free.
  bool fits() const { return !available || context() <= static_cast<double>(*available); }
  /// Tokens of the longest context that fits.
  std::optional<std::int64_t> longest_context() const;
};

/// The plan for a model that is loaded, a policy and a context of `num_context` tokens. Chunks are
/// taken to be as long as their sizes say; the cuts at words make them a little longer, so the plan
/// is an upper bound but for the last, partial chunks.
MemoryPlan plan_memory(const model::Model& model, const attention::PolicySpec& spec,
                       std::int64_t num_context);

}  // namespace gsa::apps
