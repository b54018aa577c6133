#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "attention/kv_store.h"
#include "attention/visible.h"

namespace gsa::attention {

/// A run of keys of one level as a block of queries sees it. With a column, only the queries whose
/// range covers a key may attend it; without one, all of the block may.
struct KeyPiece {
  int level = kRawLevel;
  Range keys;
  const RangeColumn* column = nullptr;
};

/// What blocks are planned for: backward holds all scores of a block, forward need not.
enum class Pass { forward, backward };

/// Consecutive queries of a slice with the keys of their static ranges.
struct QueryBlock {
  std::int64_t begin = 0;  ///< first query, counted in the slice
  std::int64_t count = 0;
  std::vector<KeyPiece> dense;   ///< long, open to every query of the block
  std::vector<KeyPiece> causal;  ///< as many keys as queries: query t sees the first t + 1
  std::vector<KeyPiece> loose;   ///< short or ragged
};

/// Splits a slice into blocks. The split of the ranges of a block: what all of its queries see (the
/// intersection) is one piece without bounds, what only some see lies on both sides of it.
std::vector<QueryBlock> plan_blocks(const RangeTable& table, Pass pass);

/// Cuts pieces so that no group holds more than `max_keys` keys.
std::vector<std::vector<KeyPiece>> group_pieces(const std::vector<KeyPiece>& pieces,
                                                std::int64_t max_keys);

/// Parts of an arena's spans that lie in a range, in order.
std::vector<KvSpan> spans_in(const KvArena& arena, Range range);

}  // namespace gsa::attention
