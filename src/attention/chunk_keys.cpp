#include "attention/chunk_keys.h"

#include <ATen/ops/cat.h>

#include "attention/key_pieces.h"
#include "attention/selection.h"

namespace gsa::attention {

const KvArena& ChunkKeys::of_layer(std::int64_t layer) const {
  static const KvArena empty;
  return layer < std::ssize(layers_) ? layers_[layer].keys : empty;
}

void ChunkKeys::update(std::int64_t layer, const KvArenas& arenas, const Layout& layout) {
  if (std::ssize(layers_) <= layer) layers_.resize(layer + 1);
  auto& [keys, num_shared] = layers_[layer];
  const Range missing{keys.len(), layout.num_nodes(0)};
  if (missing.size() <= 0) return;
  at::Tensor added = mean_raw_keys(arenas.raw, layout, missing, at::kFloat);
  if (adds_gists_) {
    for (const KvSpan& span : spans_in(arenas.gists[0], missing))
      added.narrow(1, span.begin - missing.begin, span.len()).add_(span.k);
  }
  added = added.to(arenas.raw.spans[0].k.scalar_type()).contiguous();
  if (keys.spans.size() > num_shared) {
    at::Tensor& own = keys.spans.back().k;
    own = at::cat({own, added}, 1);
  } else {
    keys.spans.push_back({added, {}, missing.begin});
  }
}

void ChunkKeys::follow(const ChunkKeys& reader) {
  layers_ = reader.layers_;
  for (Layer& layer : layers_) layer.num_shared = layer.keys.spans.size();
}

std::int64_t ChunkKeys::bytes() const {
  std::int64_t total = 0;
  for (const Layer& layer : layers_) {
    for (const KvSpan& span : layer.keys.spans) total += static_cast<std::int64_t>(span.k.nbytes());
  }
  return total;
}

std::int64_t ChunkKeys::bytes_of(const KvShape& shape, const Layout& layout) {
  return layout.num_nodes(0) * shape.num_layers * shape.num_kv_heads * shape.head_dim *
         static_cast<std::int64_t>(shape.options.dtype().itemsize());
}

}  // namespace gsa::attention
