#pragma once

#include <ATen/ops/randn.h>

#include <cstdint>

#include "model/adapter.h"

namespace gsa::model {

inline ModelConfig small_config() {
  ModelConfig config;
  config.hidden = 8;
  config.intermediate = 12;
  config.num_layers = 2;
  config.num_heads = 2;
  config.num_kv_heads = 1;
  config.head_dim = 6;
  config.vocab = 32;
  return config;
}

inline Adapter random_adapter(const ModelConfig& config, std::int64_t rank = 3) {
  Adapter adapter;
  adapter.info.base_fingerprint = "00ff";
  adapter.info.chunk_sizes = {attention::ChunkSizes{{16}}, attention::ChunkSizes{{4, 4}}};
  adapter.info.num_gist_rows = 2;
  adapter.info.lora_rank = rank;
  adapter.info.lora_alpha = 1.5;
  adapter.info.lora_targets.assign(kLoraTargets.begin(), kLoraTargets.end());
  adapter.info.recipe = "two lines\nof \"text\"";
  adapter.gist_embeddings = at::randn({2, config.hidden});
  for (std::int64_t layer = 0; layer < config.num_layers; ++layer) {
    for (const LoraTarget target : kLoraTargets) {
      const auto [out, in] = lora_target_shape(config, target);
      adapter.loras[{layer, target}] = {at::randn({rank, in}), at::randn({out, rank})};
    }
  }
  return adapter;
}

}  // namespace gsa::model
