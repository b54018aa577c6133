#pragma once

#include <ATen/core/Tensor.h>

#include "attention/kv_store.h"
#include "attention/visible.h"

namespace gsa::attention {

/// Attention that raw keys receive: softmax probabilities, summed over the query heads that share a
/// KV head and over all queries. f32 [H_kv, n], where n is the largest end of a raw range.
///   q       [T, H, d] after RoPE
///   lse     [T, H] f32, of `attend` over everything that the queries see
///   ranges  of these queries; each key counts for the queries whose raw ranges hold it
/// Works in blocks: no tensor of T x n elements exists.
at::Tensor attention_mass(const at::Tensor& q, const at::Tensor& lse, const KvArenas& arenas,
                          const RangeTable& ranges, double scale);

/// Scaled scores of raw keys: f32 [T, H_kv, r, n] for q [T, H, d]. For few queries.
at::Tensor raw_scores(const at::Tensor& q, const KvArena& raw, Range keys, double scale);

/// Queries whose scores over `num_keys` keys stay within the scratch budget, at least one.
std::int64_t score_block_len(std::int64_t num_heads, std::int64_t num_keys);

}  // namespace gsa::attention
