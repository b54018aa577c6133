#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "attention/kv_store.h"
#include "attention/layout.h"

namespace gsa::attention {

/// Keys that chunks are chosen by in place of those of their gists: the mean of their raw keys, to
/// which `route=both` adds the key of the gist. Kept per layer, in the type of the store.
class ChunkKeys {
 public:
  explicit ChunkKeys(bool adds_gists) : adds_gists_(adds_gists) {}

  /// Computes what is missing of a layer.
  void update(std::int64_t layer, const KvArenas& arenas, const Layout& layout);

  /// Chunks of a layer that have their key.
  std::int64_t len(std::int64_t layer) const { return of_layer(layer).len(); }
  /// Spans of keys [H_kv, chunks, d] without values, what is shared first; valid until the next
  /// call that changes them.
  const KvArena& of_layer(std::int64_t layer) const;

  /// Goes on behind what another holds, which is shared.
  void follow(const ChunkKeys& reader);
  /// Forgets everything.
  void clear() { layers_.clear(); }

  /// Bytes of all keys, shared ones included.
  std::int64_t bytes() const;
  /// Bytes that the keys of a layout's chunks need at most: in all layers of a store.
  static std::int64_t bytes_of(const KvShape& shape, const Layout& layout);

 private:
  struct Layer {
    KvArena keys;
    std::size_t num_shared = 0;  // spans, the first ones
  };

  bool adds_gists_;
  std::vector<Layer> layers_;
};

}  // namespace gsa::attention
