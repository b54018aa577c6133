#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "attention/layout.h"

namespace gsa::attention {

/// A contiguous run of keys and values in memory. Logical indices [begin, begin + len) of its
/// arena.
struct KvSpan {
  at::Tensor k;  // [H_kv, len, d]
  at::Tensor v;  // [H_kv, len, d]
  std::int64_t begin = 0;
  std::int64_t len() const { return k.size(1); }
};

/// Keys and values of one layer and level: logical indices 0 .. len().
struct KvArena {
  std::vector<KvSpan> spans;
  std::int64_t len() const { return spans.empty() ? 0 : spans.back().begin + spans.back().len(); }
};

/// The same by address. KV head h of entry begin + i lies at element h * head_stride + i * d.
struct KvAddresses {
  const void* k = nullptr;
  const void* v = nullptr;
  std::int64_t head_stride = 0;
  std::int64_t begin = 0, len = 0;  ///< len may be 0
};

/// All keys and values that the queries of one sequence can reach in one layer.
struct KvArenas {
  KvArena raw;
  std::vector<KvArena> gists;  // per level

  const KvArena& at(int level) const { return level == kRawLevel ? raw : gists[level]; }
  /// 0 while nothing is stored.
  std::int64_t num_kv_heads() const;
  bool requires_grad() const;
};

struct KvShape {
  std::int64_t num_layers = 0;
  std::int64_t num_kv_heads = 0;
  std::int64_t head_dim = 0;
  int num_levels = 0;
  at::TensorOptions options;  ///< dtype and device of keys and values
};

/// Keys (after RoPE) and values of one sequence, per layer and level. A fork shares everything
/// stored so far and owns what it appends; nothing is copied. Copies are made by `fork` alone.
class KvStore {
 public:
  explicit KvStore(KvShape shape);

  KvStore(KvStore&&) = default;
  KvStore& operator=(KvStore&&) = default;

  const KvShape& shape() const { return shape_; }

  /// Makes room for `extra` more entries of a level in all layers, so that appending them allocates
  /// nothing.
  void reserve(int level, std::int64_t extra);

  /// Appends `[T, H_kv, d]` keys and values to one arena. All layers of a level are appended in
  /// step.
  void append(std::int64_t layer, int level, const at::Tensor& k, const at::Tensor& v);

  /// Appends one entry, from `[H_kv, d]` f32 on the CPU. The store lies on the CPU and holds bf16,
  /// f16 or f32. Allocates nothing where room was reserved.
  void append_row(std::int64_t layer, int level, const float* k, const float* v);

  /// Spans of an arena by address, in order; valid until the next append, truncate or fork.
  int num_spans(std::int64_t layer, int level) const;
  KvAddresses addresses(std::int64_t layer, int level, int span_idx) const;

  /// Views of the arenas of a layer; valid until the next append, drop or fork.
  KvArenas arenas(std::int64_t layer) const;

  /// Entries of a level (of the last layer: complete once a forward has passed).
  std::int64_t len(int level) const;

  /// Drops entries at the end of a level so that `len` remain, in all layers.
  void truncate(int level, std::int64_t len);

  /// A store that starts with the same content. Both may append afterwards without seeing each
  /// other's tail.
  KvStore fork();

  /// Bytes of the live entries, shared ones included; and without what a fork shares.
  std::int64_t bytes() const;
  std::int64_t owned_bytes() const;

 private:
  struct Buffer {     // one growable allocation
    at::Tensor k, v;  // [H_kv, capacity, d]
    std::int64_t begin = 0;
    std::int64_t len = 0;
    bool is_shared = false;
  };
  struct Arena {
    std::vector<Buffer> buffers;  // the last one grows unless shared
    std::int64_t len() const;
  };

  KvStore(const KvStore&) = default;

  Arena& arena(std::int64_t layer, int level);
  const Arena& arena(std::int64_t layer, int level) const;
  void grow(Arena& arena, std::int64_t extra, bool exact);
  std::int64_t bytes_if(bool count_shared) const;

  KvShape shape_;
  std::vector<Arena> arenas_;  // [layer][1 + level]
};

}  // namespace gsa::attention
