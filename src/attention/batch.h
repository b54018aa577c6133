#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "attention/kv_store.h"
#include "attention/layout.h"
#include "attention/policy.h"
#include "attention/read_meter.h"
#include "attention/visible.h"

namespace gsa::attention {

class PackedAttention;
class RoutingLoss;
class StepAttention;

/// Rows of a batch that are consecutive entries of one arena of one sequence.
struct BatchSlice {
  QuerySlice entries;      ///< level and arena indices
  std::int64_t row = 0;    ///< first row in the batch
  bool is_suffix = false;  ///< suffix queries select and unfold; context never does
};

/// One sequence's share of a batch. Its slices lie in the order raw, g0, g1, ... and, per level,
/// continue the store (or start at 0 without one).
struct BatchSequence {
  const Layout* layout = nullptr;
  Policy* policy = nullptr;
  KvStore* store = nullptr;    ///< nullptr: keys and values live in the batch only (training)
  ReadMeter* meter = nullptr;  ///< counts what the suffix rows read; may be nullptr
  std::vector<BatchSlice> slices;
  StepAttention* steps = nullptr;  ///< of the same policy and store: serves suffix rows that select
  /// Ids of the context from its first token on, at least of all that lie under the gists of
  /// `slices`: for models whose gists start from their content.
  std::span<const std::int64_t> raw_tokens{};
};

/// Tokens of any number of sequences packed in one row: `[T]` ids and positions. Raw tokens carry
/// their vocabulary id; a gist of level l carries id `num_vocab + l` in meaning, and is recognised
/// by its slice's level.
struct Batch {
  at::Tensor tokens;     // [T] int64; gists: 0, their embedding comes from the slice's level
  at::Tensor positions;  // [T] int64, RoPE positions
  std::vector<BatchSequence> sequences;

  std::int64_t num_rows() const { return tokens.size(0); }
};

/// Attention of a whole batch, layer by layer: appends keys and values to the stores, lets each
/// sequence's policy select for its suffix rows, and attends.
///   q [T, H, d], k and v [T, H_kv, d], after RoPE. Returns [T, H, d].
class BatchAttention {
 public:
  /// `batch` must outlive this object. Static ranges are computed once and serve all layers with
  /// the same rule. `routing` hears of every layer that selects; may be nullptr.
  BatchAttention(const Batch& batch, double scale, RoutingLoss* routing = nullptr);
  ~BatchAttention();

  at::Tensor operator()(std::int64_t layer, const at::Tensor& q, const at::Tensor& k,
                        const at::Tensor& v);

 private:
  using Ranges = std::shared_ptr<const RangeTable>;
  struct CachedRanges {
    const BatchSlice* slice;
    StaticRule rule;
    Ranges ranges;
  };

  Ranges ranges_for(std::int64_t layer, const BatchSequence& sequence, const BatchSlice& slice);
  at::Tensor attend_slice(std::int64_t layer, const BatchSequence& sequence,
                          const BatchSlice& slice, const at::Tensor& q, const KvArenas& arenas);

  at::Tensor attend_by_rows(std::int64_t layer, const BatchSequence& sequence,
                            const BatchSlice& slice, const at::Tensor& q);
  /// What the slice may attend in a layer: static ranges, and what its policy selects.
  VisibleSet visible_set(std::int64_t layer, const BatchSequence& sequence, const BatchSlice& slice,
                         const at::Tensor& q, const KvArenas& arenas);
  void add_routing(std::int64_t layer, const at::Tensor& q, const at::Tensor& k);
  /// All slices in one launch; undefined if the kernels do not take them.
  at::Tensor attend_packed(std::int64_t layer, const at::Tensor& q, const at::Tensor& k,
                           const at::Tensor& v);

  const Batch& batch_;
  double scale_;
  RoutingLoss* routing_;
  std::vector<CachedRanges> cache_;
  std::unique_ptr<PackedAttention> packed_;
};

/// Appends context rows to a batch: `tokens` are the raw tokens from `raw_begin` on, followed by
/// every gist of the sequence's layout that ends in them (none if its policy uses no gists). Serves
/// reading in segments and whole training rows.
void append_context(Batch& batch, BatchSequence& sequence, std::span<const std::int64_t> tokens,
                    std::int64_t raw_begin);

}  // namespace gsa::attention
