#pragma once

#include <ATen/core/Tensor.h>

#include <memory>
#include <vector>

#include "attention/packed_plan.h"

namespace gsa::attention {

/// A plan on the device.
struct PackedProblem;

/// Attention of a whole batch in one launch per layer, forward and backward, by kernels of our own.
/// Equal to `attend` slice by slice.
class PackedAttention {
 public:
  /// Whether the kernels take this: built in, CUDA, bf16, head size 64 or 128, all keys among the
  /// batch's own rows (no store, or a context read from its beginning), nothing to meter.
  static bool supports(const Batch& batch, const at::Tensor& q);

  explicit PackedAttention(const Batch& batch) : batch_(batch) {}

  /// Prepares for slices with these ranges; later calls with the same ranges find it again. False
  /// if the slices cannot be packed (`plan_packed`).
  bool prepare(const std::vector<std::vector<PlannedSlice>>& slices, at::Device device);

  /// q [T, H, d], k and v [T, H_kv, d] -> [T, H, d] under the plan prepared last. `selected` holds
  /// one set per sequence; only what it selects is read. Differentiable in q, k and v.
  at::Tensor operator()(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                        const std::vector<VisibleSet>& selected, double scale) const;

 private:
  struct Prepared {
    std::vector<std::vector<PlannedSlice>> slices;
    std::shared_ptr<const PackedProblem> problem;  ///< nullptr: cannot be packed
  };

  const Batch& batch_;
  std::vector<Prepared> prepared_;
  std::shared_ptr<const PackedProblem> current_;
};

}  // namespace gsa::attention
