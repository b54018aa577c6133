#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "attention/visible.h"

namespace gsa::attention {

struct BatchSequence;
struct BatchSlice;
struct RoutingPlan;

/// Suffix rows of a sequence that select, and the static part of what they see.
struct RoutingRows {
  const BatchSequence* sequence = nullptr;  ///< without a store
  const BatchSlice* slice = nullptr;
  std::shared_ptr<const RangeTable> ranges;  ///< the same of the context for all rows
};

/// Collects, over the layers of a forward, how far the gist scores of suffix queries are from the
/// attention that the queries would give the chunks if they saw every raw token. Per layer, query
/// head and row:
///   target   softmax of scale * q . k over the raw tokens of the context that the static ranges
///            leave out, summed over each chunk
///   student  softmax of scale * q . k_gist over the chunks, under `route=both` of
///            scale * q . (k_gist + mean of the chunk's raw keys)
/// and their KL(target || student) in nats. Levels above add the targets of a node's children,
/// normalise again (nodes without a parent have no part there), and count alike. Only gist keys get
/// a gradient.
class RoutingLoss {
 public:
  static constexpr std::int64_t kBlockBytes = std::int64_t{1} << 28;

  /// Works in blocks of rows whose intermediate results take at most about so many bytes.
  explicit RoutingLoss(std::int64_t block_bytes = kBlockBytes);
  ~RoutingLoss();

  /// Adds one layer of a batch.
  ///   q [T, H, d], k [T, H_kv, d]: of the whole batch, after RoPE
  /// Products in the dtype of q and k for the target, in f32 for the student; softmax and sums in
  /// f32. Keeps the gradient of the gist keys and nothing else for backward. Nothing waits for the
  /// device.
  void add(const at::Tensor& q, const at::Tensor& k, std::span<const RoutingRows> rows,
           double scale);

  /// Mean over layers, heads and rows: a scalar. Undefined if no row had anything to choose.
  at::Tensor mean() const;

 private:
  const RoutingPlan& plan_for(const RoutingRows& rows, at::Device device);

  std::int64_t block_bytes_;
  std::vector<std::unique_ptr<const RoutingPlan>> plans_;  // the same for all layers
  at::Tensor sum_;
  std::int64_t count_ = 0;  // of heads and rows
};

}  // namespace gsa::attention
