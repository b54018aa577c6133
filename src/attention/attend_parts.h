#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "attention/key_pieces.h"
#include "attention/kv_store.h"
#include "attention/visible.h"

// Pieces that forward and backward of `attend` share: keys as f32 tensors, bounds applied to a
// block of scores.
namespace gsa::attention {

/// f32 keys and values of a group of pieces, concatenated: [H_kv, n, d].
struct KeyTile {
  at::Tensor k, v;
};
KeyTile load_tile(const KvArenas& arenas, const std::vector<KeyPiece>& pieces);

/// Sets scores [H_kv, T, r, n] outside the queries' ranges to -inf, in place.
void apply_bounds(const at::Tensor& scores, const std::vector<KeyPiece>& pieces,
                  const QueryBlock& block);

/// Selected keys of every level that has some, as `selected_keys` gives them.
using Selection = std::vector<std::pair<int, at::Tensor>>;
Selection expand_selection(const VisibleSet& visible);

/// Selected keys that lie in one span of their arena.
struct SelectedKeys {
  const KvSpan* span = nullptr;
  at::Tensor idx;      // [T, H_kv, R] int64 in the span, 0 where not valid
  at::Tensor invalid;  // [T, H_kv, R] bool
};

/// Sorts ids [T, H_kv, R] of one arena by the span that holds them. Every span gets the full width:
/// counting would need the host.
std::vector<SelectedKeys> split_by_span(const KvArena& arena, const at::Tensor& ids);

/// Queries per block such that gathered keys and values stay within the scratch budget.
std::int64_t selection_block_len(const at::Tensor& ids, std::int64_t head_dim);

/// Gathers rows of a span's k or v [H_kv, n, d] by idx [T, H_kv, R]: f32 [T, H_kv, R, d].
at::Tensor gather_rows(const at::Tensor& x, const at::Tensor& idx);

}  // namespace gsa::attention
