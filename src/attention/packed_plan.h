#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "attention/batch.h"
#include "kernels/cuda/packed_attention.h"

namespace gsa::attention {

/// Static ranges of one slice of a batch, and whether its queries select besides.
struct PlannedSlice {
  const BatchSlice* slice = nullptr;
  std::shared_ptr<const RangeTable> ranges;
  bool selects = false;
};

/// What the selecting queries of one sequence may select from.
struct MaskPlan {
  std::int32_t first_mask_row = 0, num_queries = 0;
  /// Number of the node of each context row: chunks, then the gists of each level. -1 for rows that
  /// the static ranges show anyway, and for rows in no chunk.
  std::vector<std::int32_t> key_nodes;
  std::vector<std::int32_t> first_bit;  ///< of the chunks, then of each level's gists
  std::int32_t num_bits = 0;
};

/// A batch without stores as tiles of rows for kernels::sm80_bf16_packed_attention. Its size grows
/// with the pairs of 64 queries and 64 keys that see each other, no mask among them.
struct HostPackedPlan {
  std::vector<kernels::PackedTile> query_tiles, key_tiles;
  std::vector<kernels::PackedColumn> query_columns, key_columns;
  std::vector<kernels::RowRange> bounds;
  std::vector<std::optional<MaskPlan>> masks;  ///< per sequence
  std::int32_t num_mask_rows = 0, mask_words = 0;
};

/// Lays out the slices of every sequence, `slices[i]` those of sequence i in its order. Context
/// rows of a sequence are consecutive, and its selecting rows are one slice. Nothing if selecting
/// queries of one slice differ in what their static ranges show of the context, or if they select
/// among more nodes than kernels::kMaxSelectBits.
std::optional<HostPackedPlan> plan_packed(const Batch& batch,
                                          const std::vector<std::vector<PlannedSlice>>& slices);

}  // namespace gsa::attention
