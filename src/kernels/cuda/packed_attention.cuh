#pragma once

#include <cmath>
#include <stdexcept>

#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/packed_attention.h"
#include "kernels/cuda/tensor_core.cuh"

// What forward and backward share: the walk over the key tiles of a query tile, and what a query
// sees of one. Four warps take 16 rows of a tile each. Scores never leave registers: the product's
// result layout is the left operand's layout of the next product.
namespace gsa::kernels {

constexpr const char* kPackedName = "packed attention";
constexpr int kThreads = 128;
constexpr float kLog2E = 1.4426950408889634F;
constexpr float kLn2 = 0.6931471805599453F;
constexpr float kMinusInf = -INFINITY;

struct Problem {
  PackedShape shape;
  PackedPlan plan;
  const bf16 *q, *k, *v;
};

__device__ __forceinline__ int group_size(const PackedShape& shape) {
  return shape.num_heads / shape.num_kv_heads;
}

/// What one query sees: a range of rows or, in a selected column, the bits of a tile.
union Sight {
  RowRange range;
  std::uint64_t bits;
};

__device__ __forceinline__ bool sees(const Sight& sight, bool by_bits, int key, int key_in_tile) {
  if (by_bits) return (sight.bits >> key_in_tile) & 1;
  return key >= sight.range.begin && key < sight.range.end;
}

/// Address of a query's sight; `query` counts from the query the column's indices belong to.
__device__ __forceinline__ const void* sight_address(const Problem& p, const PackedColumn& column,
                                                     int query, int kv_head, int word) {
  if (column.bounds >= 0) return p.plan.bounds + column.bounds + query;
  const std::int64_t row = static_cast<std::int64_t>(column.mask_row + query);
  return p.plan.masks + (row * p.shape.num_kv_heads + kv_head) * p.plan.mask_words + word;
}

/// Walks over the tiles of a query tile's columns.
struct KeyCursor {
  const PackedColumn* columns;
  int column_idx, column_end;
  PackedColumn column;
  int key;

  __device__ KeyCursor(const Problem& p, const PackedTile& tile)
      : columns(p.plan.query_columns), column_idx(tile.column_begin), column_end(tile.column_end) {
    open();
  }
  __device__ bool done() const { return column_idx >= column_end; }
  __device__ void next() {
    key += kPackedTile;
    if (key >= column.end) {
      ++column_idx;
      open();
    }
  }

 private:
  __device__ void open() {
    if (done()) return;
    column = columns[column_idx];
    key = column.begin;
  }
};

/// The sights of a thread's two queries for the tile under a cursor.
__device__ __forceinline__ void load_sights(Sight (&sights)[2], const Problem& p,
                                            const KeyCursor& at, int first_row, int num_rows,
                                            int kv_head) {
  const int word = (at.key - at.column.begin) / kPackedTile;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    sights[i].bits = 0;
    const int row = first_row + 8 * i;
    if (row < num_rows) {
      sights[i].bits =
          *static_cast<const std::uint64_t*>(sight_address(p, at.column, row, kv_head, word));
    }
  }
}

inline Problem make_problem(const PackedShape& shape, const PackedPlan& plan, const void* q,
                            const void* k, const void* v) {
  if (shape.head_dim != 64 && shape.head_dim != 128) {
    throw std::runtime_error("packed attention: head size has to be 64 or 128");
  }
  return {shape, plan, static_cast<const bf16*>(q), static_cast<const bf16*>(k),
          static_cast<const bf16*>(v)};
}

}  // namespace gsa::kernels
