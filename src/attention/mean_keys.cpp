#include "attention/mean_keys.h"

#include "core/quant.h"

namespace gsa::attention {

void MeanKeys::load(std::int64_t layer) {
  layer_ = layer;
  if (std::ssize(layers_) <= layer) layers_.resize(layer + 1);
  Layer& own = layers_[layer];
  own.means.resize(keys_.num_kv_heads());
  const std::int64_t num_chunks = layout_.num_nodes(0);
  for (std::int64_t kv_head = 0; kv_head < keys_.num_kv_heads(); ++kv_head) {
    std::vector<float>& means = own.means[kv_head];
    if (own.num_chunks < num_chunks) means.reserve(num_chunks * keys_.head_dim());
    for (std::int64_t chunk = own.num_chunks; chunk < num_chunks; ++chunk)
      add_mean(kv_head, chunk, means);
  }
  own.num_chunks = num_chunks;
}

void MeanKeys::add_mean(std::int64_t kv_head, std::int64_t chunk, std::vector<float>& means) {
  const std::int64_t d = keys_.head_dim();
  const Range tokens = layout_.children(0, chunk);
  means.resize(means.size() + d, 0.0F);
  float* const mean = means.data() + means.size() - d;
  add_to(mean, kRawLevel, tokens, kv_head);
  for (std::int64_t c = 0; c < d; ++c) mean[c] /= static_cast<float>(tokens.size());
  if (adds_gists_) add_to(mean, 0, {chunk, chunk + 1}, kv_head);
}

/// Adds the keys of entries: sums [d].
void MeanKeys::add_to(float* sums, int level, Range entries, std::int64_t kv_head) {
  const std::int64_t d = keys_.head_dim(), row_bytes = d * core::block_bytes(keys_.type());
  runs_.clear();
  keys_.add_runs(level, entries, kv_head, runs_);
  row_.resize(d);
  for (const kernels::KeyRun& run : runs_) {
    const auto* const bytes = static_cast<const std::byte*>(run.k);
    for (std::int64_t i = 0; i < run.count; ++i) {
      core::dequantize(keys_.type(), {bytes + i * row_bytes, static_cast<std::size_t>(row_bytes)},
                       row_);
      for (std::int64_t c = 0; c < d; ++c) sums[c] += row_[c];
    }
  }
}

void MeanKeys::add_runs(Range chunks, std::int64_t kv_head,
                        std::vector<kernels::KeyRun>& runs) const {
  if (chunks.size() <= 0) return;
  const float* const first =
      layers_[layer_].means[kv_head].data() + chunks.begin * keys_.head_dim();
  runs.push_back({first, nullptr, chunks.size()});
}

}  // namespace gsa::attention
