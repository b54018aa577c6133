#pragma once

#include <ATen/core/Tensor.h>

#include "attention/policy.h"
#include "attention/visible.h"

namespace gsa::attention {

/// Sorts the last dimension of non-negative int64 ids ascending; duplicates and -1 become -1 at the
/// end.
at::Tensor sorted_unique(const at::Tensor& ids);

/// Chosen chunks [..., K], -1 none, each with the neighbours that are selected with it behind it:
/// [..., K] or wider. Neighbours may repeat chosen ones.
at::Tensor with_neighbours(const at::Tensor& chunks, PolicySpec::Unfold unfold,
                           std::int64_t num_chunks);

/// Mean of the raw keys of some chunks: [H_kv, chunks, d] of `dtype`, in which it is summed.
at::Tensor mean_raw_keys(const KvArena& raw, const Layout& layout, Range chunks,
                         at::ScalarType dtype);

/// Host numbers as an int64 tensor `[count]` on a device.
at::Tensor to_tensor(std::span<const std::int64_t> values, at::Device device);

/// Keys of one level that a selection adds to the static ranges: int64 [T, H_kv, R], each once per
/// row, -1 where there is none. Chunks are unfolded to raw tokens here. Undefined if the selection
/// names no key of that level.
at::Tensor selected_keys(const VisibleSet& visible, int level);

}  // namespace gsa::attention
