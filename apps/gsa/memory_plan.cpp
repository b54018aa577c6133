#include "memory_plan.h"

#include "engine/memory.h"
#include "engine/reading.h"

namespace gsa::apps {

std::optional<std::int64_t> MemoryPlan::longest_context() const {
  if (!available) return std::nullopt;
  return static_cast<std::int64_t>(static_cast<double>(*available) / per_token());
}

MemoryPlan plan_memory(const model::Model& model, const attention::PolicySpec& spec,
                       std::int64_t num_context) {
  const auto policy = attention::make_policy(spec);
  const attention::ChunkSizes& chunk_sizes = spec.layout.chunk_sizes;
  MemoryPlan plan;
  if (policy->uses_gists()) plan.chunk_sizes = chunk_sizes;
  plan.num_context = num_context;
  plan.weights = model.weight_bytes();
  if (model.device().is_cpu()) plan.available = engine::available_memory_bytes();
  const attention::KvShape shape = model.kv_shape(plan.chunk_sizes.num_levels());
  plan.raw_per_token =
      static_cast<double>(shape.num_layers * shape.num_kv_heads * engine::kv_entry_bytes(shape));
  double tokens_per_gist = 1;
  for (const std::int32_t size : plan.chunk_sizes.sizes) {
    tokens_per_gist *= size;
    plan.gists_per_token += plan.raw_per_token / tokens_per_gist;
  }
  if (policy->chunk_keys() != nullptr)
    plan.chunk_keys_per_token = plan.raw_per_token / 2 / chunk_sizes.sizes[0];
  return plan;
}

}  // namespace gsa::apps
