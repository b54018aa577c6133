#pragma once

#include <ATen/core/Tensor.h>

#include "attention/kv_store.h"
#include "attention/visible.h"

namespace gsa::attention {

/// Result of attention over a visible set. Partial results over disjoint key sets merge exactly
/// (`merge`).
struct Attended {
  at::Tensor out;  // [T, H, d], dtype of q
  at::Tensor lse;  // [T, H] f32, log of the sum of exponentials; -inf where nothing was visible
};

/// softmax(scale * q k^T) v over exactly the keys of the visible set, one softmax per query and
/// head (method §3.4).
///   q       [T, H, d] after RoPE: T = visible.ranges->queries.count, H a multiple of H_kv
///   arenas  keys and values of the layer
/// On the CPU, in f32 and bf16, static ranges are attended by kernels of our own (`attend_ranges`);
/// everything else is a composite of LibTorch operations on the device of q. Memory beyond the
/// result, and a copy of it in f32 where there is a selection, is bounded by blocks of queries; no
/// tensor of T x n elements exists. Differentiable in q and every span's k
/// and v when grad mode is on (scores are recomputed from the log-sum-exp in backward).
/// `visible.layout` must live until backward has run.
Attended attend(const at::Tensor& q, const KvArenas& arenas, const VisibleSet& visible,
                double scale);

/// The definition of `attend`: lists the visible keys of every query and evaluates the formula in
/// double precision. CPU only, no gradient; kept as oracle and for small inputs.
Attended attend_reference(const at::Tensor& q, const KvArenas& arenas, const VisibleSet& visible,
                          double scale);

/// Merges two partial results over disjoint key sets.
Attended merge(const Attended& a, const Attended& b);

}  // namespace gsa::attention
