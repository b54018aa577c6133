#pragma once

#include <cstdint>

// Attention among the rows of one packed batch: every row is a query and a key. What a query sees
// is told by ranges of rows and, for the few queries that select, by bits per key. Plain device
// pointers; no allocation; results do not depend on the order in which blocks run.
namespace gsa::kernels {

inline constexpr int kPackedTile = 64;

/// Up to 64 consecutive rows, and the columns that name what stands opposite them.
struct PackedTile {
  std::int32_t row_begin, row_count;
  std::int32_t column_begin, column_end;
};

/// Rows opposite a tile: keys that some query of a query tile sees, or queries that see some key of
/// a key tile.
struct PackedColumn {
  std::int32_t begin, end;
  /// Index of a query's visible range: of the first query of a query tile, or of query `begin`
  /// opposite a key tile. -1: the bits of `masks` tell.
  std::int32_t bounds;
  std::int32_t mask_row;   ///< row of `masks` of that same query
  std::int32_t mask_word;  ///< opposite a key tile: the word that holds the tile's bits
};

/// Keys [begin, end) that one query sees in one column, as rows of the batch.
struct RowRange {
  std::int32_t begin, end;
};

/// Device pointers.
struct PackedPlan {
  const PackedTile* query_tiles;
  const PackedTile* key_tiles;
  std::int32_t num_query_tiles, num_key_tiles;
  const PackedColumn* query_columns;
  const PackedColumn* key_columns;
  const RowRange* bounds;
  /// [mask rows, H_kv, mask_words]: bit j of word w stands for key `column.begin + 64 w + j`.
  const std::uint64_t* masks;
  std::int32_t mask_words;
};

struct PackedShape {
  std::int64_t num_rows;
  int num_heads, num_kv_heads;
  int head_dim;                               ///< 64 or 128
  std::int64_t q_stride, k_stride, v_stride;  ///< elements from one row to the next
  float scale;
};

/// q [T, H, d], k and v [T, H_kv, d] bf16, each row's heads contiguous and rows aligned to 16
/// bytes. Writes out [T, H, d] bf16 and lse [T, H] f32, natural log, -inf where nothing is visible.
/// `stream` is a cudaStream_t. Needs compute capability 8.0. Throws if the launch fails.
void sm80_bf16_packed_attention(const PackedShape& shape, const PackedPlan& plan, const void* q,
                                const void* k, const void* v, void* out, float* lse, void* stream);

/// Gradients of the above: grad_q [T, H, d], grad_k and grad_v [T, H_kv, d] bf16, contiguous.
///   out, grad_out  [T, H, d] bf16, contiguous
///   delta          scratch [T, H] f32
void sm80_bf16_packed_attention_backward(const PackedShape& shape, const PackedPlan& plan,
                                         const void* q, const void* k, const void* v,
                                         const void* out, const void* grad_out, const float* lse,
                                         float* delta, void* grad_q, void* grad_k, void* grad_v,
                                         void* stream);

/// Selected nodes as ids per query and KV head, one list per level.
struct SelectedNodes {
  static constexpr int kMaxLists = 10;
  const std::int64_t* ids[kMaxLists];  ///< [num_queries, H_kv, width], -1 where there is none
  std::int32_t width[kMaxLists];
  std::int32_t first_bit[kMaxLists];  ///< number of node 0 of the list
  int num_lists;
  std::int32_t num_bits;  ///< at most kMaxSelectBits
};

/// Most bits that `sm80_select_masks` takes: they lie in the 96 KiB of shared memory that every GPU
/// of compute capability 8.0 or newer has.
inline constexpr std::int32_t kMaxSelectBits = 8 * 96 * 1024;

/// Bits per query, KV head and key: set where the key's node is selected.
///   key_nodes  [num_keys] number of the node of each key, -1 for keys that cannot be selected
///   masks      [num_queries, H_kv, mask_words], mask_words >= ceil(num_keys / 64)
void sm80_select_masks(const SelectedNodes& nodes, const std::int32_t* key_nodes,
                       std::int32_t num_keys, std::int32_t num_queries, int num_kv_heads,
                       std::uint64_t* masks, std::int32_t mask_words, void* stream);

}  // namespace gsa::kernels
