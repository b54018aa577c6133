#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "attention/kv_store.h"
#include "attention/layout.h"
#include "kernels/cpu/decode_attention.h"

namespace gsa::attention {

/// Appends the runs of entries of a KV head of an arena to `runs`.
///   type, head_dim  of its keys and values
void append_runs(std::span<const KvAddresses> spans, core::DataType type, std::int64_t head_dim,
                 Range entries, std::int64_t kv_head, std::vector<kernels::KeyRun>& runs);

/// Where the entries of one layer of a store lie in memory, for the CPU kernels. Memory is kept
/// from layer to layer.
class KeyAddresses {
 public:
  explicit KeyAddresses(const KvStore& store);

  /// Looks at a layer; valid until the next append, truncate or fork of the store.
  void load(std::int64_t layer);

  std::int64_t num_kv_heads() const { return store_.shape().num_kv_heads; }
  std::int64_t head_dim() const { return store_.shape().head_dim; }
  core::DataType type() const { return type_; }
  int num_levels() const { return store_.shape().num_levels; }
  /// Entries of a level.
  std::int64_t len(int level) const;

  /// Appends the runs of entries of a KV head to `runs`.
  void add_runs(int level, Range entries, std::int64_t kv_head,
                std::vector<kernels::KeyRun>& runs) const {
    append_runs(spans_[1 + level], type_, head_dim(), entries, kv_head, runs);
  }
  /// Runs that `add_runs` makes of one range, at most.
  std::int64_t max_runs(int level) const { return std::ssize(spans_[1 + level]); }

  /// Whether the kernels read what the store holds: bf16, f16 or f32 on the CPU.
  static bool supports(const KvStore& store);

 private:
  const KvStore& store_;
  core::DataType type_;
  std::vector<std::vector<KvAddresses>> spans_;  // [1 + level]
};

}  // namespace gsa::attention
