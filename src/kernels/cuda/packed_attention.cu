#include <cmath>
#include <stdexcept>
#include <string>

#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/packed_attention.h"
#include "kernels/cuda/tensor_core.cuh"

// Four warps take 16 rows of a tile each. Scores never leave registers: the product's result layout
// is the left operand's layout of the next product.
namespace gsa::kernels {
namespace {

constexpr const char* kWhat = "packed attention";
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

template <int D>
__global__ __launch_bounds__(kThreads) void forward_kernel(Problem p, bf16* out, float* lse) {
  extern __shared__ __align__(128) bf16 shared[];
  constexpr int size = kPackedTile * D;
  bf16* const q_tile = shared;
  bf16* const k_tiles = shared + size;
  bf16* const v_tiles = shared + 3 * size;

  const PackedTile tile = p.plan.query_tiles[blockIdx.x];
  const int head = blockIdx.y, kv_head = head / group_size(p.shape);
  const int lane = threadIdx.x % 32, row = threadIdx.x / 32 * 16 + lane / 4;
  const bf16* const k_head = p.k + kv_head * D;
  const bf16* const v_head = p.v + kv_head * D;
  const float scale = p.shape.scale * kLog2E;

  const auto load = [&](const KeyCursor& at, int stage) {
    load_rows<D>(k_tiles + stage * size, k_head, p.shape.k_stride, at.key, at.column.end);
    load_rows<D>(v_tiles + stage * size, v_head, p.shape.v_stride, at.key, at.column.end);
  };

  KeyCursor at(p, tile);
  load_rows<D>(q_tile, p.q + head * D, p.shape.q_stride, tile.row_begin,
               tile.row_begin + tile.row_count);
  if (!at.done()) load(at, 0);
  commit_copies();

  std::uint32_t q_left[D / 16][4];
  float acc[D / 8][4] = {};
  float peak[2] = {kMinusInf, kMinusInf}, sum[2] = {0, 0};
  bool has_q = false;
  for (int stage = 0; !at.done(); stage ^= 1) {
    KeyCursor ahead = at;
    ahead.next();
    if (!ahead.done()) load(ahead, stage ^ 1);
    commit_copies();
    Sight sights[2];
    load_sights(sights, p, at, row, tile.row_count, kv_head);
    wait_copies<1>();
    __syncthreads();
    if (!has_q) {
#pragma unroll
      for (int kk = 0; kk < D / 16; ++kk)
        load_left<D>(q_left[kk], q_tile, threadIdx.x / 32 * 16, kk);
      has_q = true;
    }
    const bf16* const k_tile = k_tiles + stage * size;
    const bf16* const v_tile = v_tiles + stage * size;

    float s[8][4] = {};
#pragma unroll
    for (int kk = 0; kk < D / 16; ++kk) {
#pragma unroll
      for (int j = 0; j < 8; j += 2) {
        std::uint32_t right[4];
        load_right<D>(right, k_tile, 8 * j, kk);
        multiply_add(s[j], q_left[kk], right[0], right[1]);
        multiply_add(s[j + 1], q_left[kk], right[2], right[3]);
      }
    }

    const bool by_bits = at.column.bounds < 0;
    float new_peak[2] = {peak[0], peak[1]};
#pragma unroll
    for (int j = 0; j < 8; ++j) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const int key = 8 * j + 2 * (lane % 4) + e % 2;
        s[j][e] = sees(sights[e / 2], by_bits, at.key + key, key) ? s[j][e] * scale : kMinusInf;
        new_peak[e / 2] = fmaxf(new_peak[e / 2], s[j][e]);
      }
    }
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      new_peak[i] = fmaxf(new_peak[i], __shfl_xor_sync(0xffffffff, new_peak[i], 1));
      new_peak[i] = fmaxf(new_peak[i], __shfl_xor_sync(0xffffffff, new_peak[i], 2));
      const float shift = new_peak[i] == kMinusInf ? 0.F : new_peak[i];
      const float fade = exp2f(peak[i] - shift);
      peak[i] = new_peak[i];
      sum[i] *= fade;
#pragma unroll
      for (int j = 0; j < 8; ++j) {
        s[j][2 * i] = exp2f(s[j][2 * i] - shift);
        s[j][2 * i + 1] = exp2f(s[j][2 * i + 1] - shift);
        sum[i] += s[j][2 * i] + s[j][2 * i + 1];
      }
#pragma unroll
      for (int j = 0; j < D / 8; ++j) {
        acc[j][2 * i] *= fade;
        acc[j][2 * i + 1] *= fade;
      }
    }

#pragma unroll
    for (int kk = 0; kk < 4; ++kk) {
      std::uint32_t left[4];
      as_left(left, s[2 * kk], s[2 * kk + 1]);
#pragma unroll
      for (int j = 0; j < D / 8; j += 2) {
        std::uint32_t right[4];
        load_right_rows<D>(right, v_tile, 16 * kk, j);
        multiply_add(acc[j], left, right[0], right[1]);
        multiply_add(acc[j + 1], left, right[2], right[3]);
      }
    }
    __syncthreads();
    at = ahead;
  }

#pragma unroll
  for (int i = 0; i < 2; ++i) {
    sum[i] += __shfl_xor_sync(0xffffffff, sum[i], 1);
    sum[i] += __shfl_xor_sync(0xffffffff, sum[i], 2);
    if (row + 8 * i >= tile.row_count) continue;
    const std::int64_t place =
        static_cast<std::int64_t>(tile.row_begin + row + 8 * i) * p.shape.num_heads + head;
    const float weight = sum[i] > 0 ? 1 / sum[i] : 0;
    if (lane % 4 == 0) lse[place] = sum[i] > 0 ? peak[i] * kLn2 + logf(sum[i]) : kMinusInf;
    auto* const to = reinterpret_cast<std::uint32_t*>(out + place * D);
#pragma unroll
    for (int j = 0; j < D / 8; ++j) {
      to[4 * j + lane % 4] = pack(acc[j][2 * i] * weight, acc[j][2 * i + 1] * weight);
    }
  }
}

/// delta = sum over d of out * grad_out; one warp per row and head.
template <int D>
__global__ void delta_kernel(const bf16* out, const bf16* grad_out, float* delta,
                             std::int64_t num_places) {
  const std::int64_t thread = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  const std::int64_t place = thread / 32;
  if (place >= num_places) return;
  const int lane = threadIdx.x % 32;
  float sum = 0;
#pragma unroll
  for (int i = 0; i < D / 32; ++i) {
    const std::int64_t at = place * D + i * 32 + lane;
    sum += __bfloat162float(out[at]) * __bfloat162float(grad_out[at]);
  }
#pragma unroll
  for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(0xffffffff, sum, step);
  if (lane == 0) delta[place] = sum;
}

struct Gradients {
  const bf16* grad_out;
  const float *lse, *delta;
  bf16 *q, *k, *v;
};

// Keys or queries whose scores are held at once in backward.
constexpr int kHalf = 32;

template <int D>
__global__ __launch_bounds__(kThreads) void grad_query_kernel(Problem p, Gradients g) {
  extern __shared__ __align__(128) bf16 shared[];
  constexpr int size = kPackedTile * D;
  bf16* const q_tile = shared;
  bf16* const o_tile = shared + size;
  bf16* const k_tiles = shared + 2 * size;
  bf16* const v_tiles = shared + 4 * size;

  const PackedTile tile = p.plan.query_tiles[blockIdx.x];
  const int head = blockIdx.y, kv_head = head / group_size(p.shape);
  const int lane = threadIdx.x % 32, warp_row = threadIdx.x / 32 * 16, row = warp_row + lane / 4;
  const float scale = p.shape.scale * kLog2E;
  const auto load = [&](const KeyCursor& at, int stage) {
    load_rows<D>(k_tiles + stage * size, p.k + kv_head * D, p.shape.k_stride, at.key,
                 at.column.end);
    load_rows<D>(v_tiles + stage * size, p.v + kv_head * D, p.shape.v_stride, at.key,
                 at.column.end);
  };

  KeyCursor at(p, tile);
  const int row_end = tile.row_begin + tile.row_count;
  load_rows<D>(q_tile, p.q + head * D, p.shape.q_stride, tile.row_begin, row_end);
  load_rows<D>(o_tile, g.grad_out + head * D, static_cast<std::int64_t>(p.shape.num_heads) * D,
               tile.row_begin, row_end);
  if (!at.done()) load(at, 0);
  commit_copies();

  float lse[2] = {0, 0}, delta[2] = {0, 0};
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    if (row + 8 * i >= tile.row_count) continue;
    const std::int64_t place =
        static_cast<std::int64_t>(tile.row_begin + row + 8 * i) * p.shape.num_heads + head;
    lse[i] = g.lse[place] * kLog2E;
    delta[i] = g.delta[place];
  }

  float acc[D / 8][4] = {};
  for (int stage = 0; !at.done(); stage ^= 1) {
    KeyCursor ahead = at;
    ahead.next();
    if (!ahead.done()) load(ahead, stage ^ 1);
    commit_copies();
    Sight sights[2];
    load_sights(sights, p, at, row, tile.row_count, kv_head);
    wait_copies<1>();
    __syncthreads();
    const bf16* const k_tile = k_tiles + stage * size;
    const bf16* const v_tile = v_tiles + stage * size;
    const bool by_bits = at.column.bounds < 0;
#pragma unroll
    for (int half = 0; half < kPackedTile; half += kHalf) {
      float s[kHalf / 8][4] = {}, dp[kHalf / 8][4] = {};
#pragma unroll
      for (int kk = 0; kk < D / 16; ++kk) {
        std::uint32_t q_left[4], o_left[4];
        load_left<D>(q_left, q_tile, warp_row, kk);
        load_left<D>(o_left, o_tile, warp_row, kk);
#pragma unroll
        for (int j = 0; j < kHalf / 8; j += 2) {
          std::uint32_t right[4];
          load_right<D>(right, k_tile, half + 8 * j, kk);
          multiply_add(s[j], q_left, right[0], right[1]);
          multiply_add(s[j + 1], q_left, right[2], right[3]);
          load_right<D>(right, v_tile, half + 8 * j, kk);
          multiply_add(dp[j], o_left, right[0], right[1]);
          multiply_add(dp[j + 1], o_left, right[2], right[3]);
        }
      }
#pragma unroll
      for (int j = 0; j < kHalf / 8; ++j) {
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          const int key = half + 8 * j + 2 * (lane % 4) + e % 2;
          const bool visible = sees(sights[e / 2], by_bits, at.key + key, key);
          const float prob = visible ? exp2f(s[j][e] * scale - lse[e / 2]) : 0.F;
          s[j][e] = prob * (dp[j][e] - delta[e / 2]);
        }
      }
#pragma unroll
      for (int kk = 0; kk < kHalf / 16; ++kk) {
        std::uint32_t left[4];
        as_left(left, s[2 * kk], s[2 * kk + 1]);
#pragma unroll
        for (int j = 0; j < D / 8; j += 2) {
          std::uint32_t right[4];
          load_right_rows<D>(right, k_tile, half + 16 * kk, j);
          multiply_add(acc[j], left, right[0], right[1]);
          multiply_add(acc[j + 1], left, right[2], right[3]);
        }
      }
    }
    __syncthreads();
    at = ahead;
  }
  wait_copies<0>();

#pragma unroll
  for (int i = 0; i < 2; ++i) {
    if (row + 8 * i >= tile.row_count) continue;
    const std::int64_t place =
        static_cast<std::int64_t>(tile.row_begin + row + 8 * i) * p.shape.num_heads + head;
    auto* const to = reinterpret_cast<std::uint32_t*>(g.q + place * D);
#pragma unroll
    for (int j = 0; j < D / 8; ++j) {
      to[4 * j + lane % 4] = pack(acc[j][2 * i] * p.shape.scale, acc[j][2 * i + 1] * p.shape.scale);
    }
  }
}

/// Walks over the query tiles opposite a key tile, for every query head of a KV head.
struct QueryCursor {
  const PackedColumn* columns;
  int column_begin, column_end, num_heads_left;
  int column_idx, head;
  PackedColumn column;
  int query;

  __device__ QueryCursor(const Problem& p, const PackedTile& tile, int kv_head)
      : columns(p.plan.key_columns),
        column_begin(tile.column_begin),
        column_end(tile.column_end),
        num_heads_left(tile.column_begin < tile.column_end ? group_size(p.shape) : 0),
        column_idx(tile.column_begin),
        head(kv_head * group_size(p.shape)) {
    if (!done()) open();
  }
  __device__ bool done() const { return num_heads_left == 0; }
  __device__ void next() {
    query += kPackedTile;
    if (query < column.end) return;
    if (++column_idx == column_end) {
      column_idx = column_begin;
      ++head;
      if (--num_heads_left == 0) return;
    }
    open();
  }

 private:
  __device__ void open() {
    column = columns[column_idx];
    query = column.begin;
  }
};

template <int D>
__global__ __launch_bounds__(kThreads) void grad_key_value_kernel(Problem p, Gradients g) {
  extern __shared__ __align__(128) bf16 shared[];
  constexpr int size = kPackedTile * D;
  bf16* const k_tile = shared;
  bf16* const v_tile = shared + size;
  bf16* const q_tiles = shared + 2 * size;
  bf16* const o_tiles = shared + 4 * size;
  __shared__ Sight sights[2][kPackedTile];
  __shared__ float lses[2][kPackedTile], deltas[2][kPackedTile];

  const PackedTile tile = p.plan.key_tiles[blockIdx.x];
  const int kv_head = blockIdx.y, num_heads = p.shape.num_heads;
  const int lane = threadIdx.x % 32, warp_row = threadIdx.x / 32 * 16, row = warp_row + lane / 4;
  const float scale = p.shape.scale * kLog2E;
  const auto load = [&](const QueryCursor& at, int stage) {
    load_rows<D>(q_tiles + stage * size, p.q + at.head * D, p.shape.q_stride, at.query,
                 at.column.end);
    load_rows<D>(o_tiles + stage * size, g.grad_out + at.head * D,
                 static_cast<std::int64_t>(num_heads) * D, at.query, at.column.end);
    const int i = threadIdx.x;
    if (i < kPackedTile) {
      const bool valid = at.query + i < at.column.end;
      const int query = valid ? at.query + i : at.query;
      const std::int64_t place = static_cast<std::int64_t>(query) * num_heads + at.head;
      copy_async<4>(&lses[stage][i], g.lse + place, valid);
      copy_async<4>(&deltas[stage][i], g.delta + place, valid);
      copy_async<8>(
          &sights[stage][i],
          sight_address(p, at.column, query - at.column.begin, kv_head, at.column.mask_word),
          valid);
    }
  };

  QueryCursor at(p, tile, kv_head);
  const int row_end = tile.row_begin + tile.row_count;
  load_rows<D>(k_tile, p.k + kv_head * D, p.shape.k_stride, tile.row_begin, row_end);
  load_rows<D>(v_tile, p.v + kv_head * D, p.shape.v_stride, tile.row_begin, row_end);
  if (!at.done()) load(at, 0);
  commit_copies();

  float grad_k[D / 8][4] = {}, grad_v[D / 8][4] = {};
  for (int stage = 0; !at.done(); stage ^= 1) {
    QueryCursor ahead = at;
    ahead.next();
    if (!ahead.done()) load(ahead, stage ^ 1);
    commit_copies();
    wait_copies<1>();
    __syncthreads();
    const bf16* const q_tile = q_tiles + stage * size;
    const bf16* const o_tile = o_tiles + stage * size;
    const bool by_bits = at.column.bounds < 0;
#pragma unroll
    for (int half = 0; half < kPackedTile; half += kHalf) {
      float s[kHalf / 8][4] = {}, dp[kHalf / 8][4] = {};  // [keys of the warp, queries]
#pragma unroll
      for (int kk = 0; kk < D / 16; ++kk) {
        std::uint32_t k_left[4], v_left[4];
        load_left<D>(k_left, k_tile, warp_row, kk);
        load_left<D>(v_left, v_tile, warp_row, kk);
#pragma unroll
        for (int j = 0; j < kHalf / 8; j += 2) {
          std::uint32_t right[4];
          load_right<D>(right, q_tile, half + 8 * j, kk);
          multiply_add(s[j], k_left, right[0], right[1]);
          multiply_add(s[j + 1], k_left, right[2], right[3]);
          load_right<D>(right, o_tile, half + 8 * j, kk);
          multiply_add(dp[j], v_left, right[0], right[1]);
          multiply_add(dp[j + 1], v_left, right[2], right[3]);
        }
      }
#pragma unroll
      for (int j = 0; j < kHalf / 8; ++j) {
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          const int query = half + 8 * j + 2 * (lane % 4) + e % 2;
          const int key = row + 8 * (e / 2);
          const bool visible = sees(sights[stage][query], by_bits, tile.row_begin + key, key);
          const float prob = visible ? exp2f(s[j][e] * scale - lses[stage][query] * kLog2E) : 0.F;
          s[j][e] = prob;
          dp[j][e] = prob * (dp[j][e] - deltas[stage][query]);
        }
      }
#pragma unroll
      for (int kk = 0; kk < kHalf / 16; ++kk) {
        std::uint32_t prob_left[4], ds_left[4];
        as_left(prob_left, s[2 * kk], s[2 * kk + 1]);
        as_left(ds_left, dp[2 * kk], dp[2 * kk + 1]);
#pragma unroll
        for (int j = 0; j < D / 8; j += 2) {
          std::uint32_t right[4];
          load_right_rows<D>(right, o_tile, half + 16 * kk, j);
          multiply_add(grad_v[j], prob_left, right[0], right[1]);
          multiply_add(grad_v[j + 1], prob_left, right[2], right[3]);
          load_right_rows<D>(right, q_tile, half + 16 * kk, j);
          multiply_add(grad_k[j], ds_left, right[0], right[1]);
          multiply_add(grad_k[j + 1], ds_left, right[2], right[3]);
        }
      }
    }
    __syncthreads();
    at = ahead;
  }
  wait_copies<0>();

#pragma unroll
  for (int i = 0; i < 2; ++i) {
    if (row + 8 * i >= tile.row_count) continue;
    const std::int64_t place =
        static_cast<std::int64_t>(tile.row_begin + row + 8 * i) * p.shape.num_kv_heads + kv_head;
    auto* const to_k = reinterpret_cast<std::uint32_t*>(g.k + place * D);
    auto* const to_v = reinterpret_cast<std::uint32_t*>(g.v + place * D);
#pragma unroll
    for (int j = 0; j < D / 8; ++j) {
      to_k[4 * j + lane % 4] =
          pack(grad_k[j][2 * i] * p.shape.scale, grad_k[j][2 * i + 1] * p.shape.scale);
      to_v[4 * j + lane % 4] = pack(grad_v[j][2 * i], grad_v[j][2 * i + 1]);
    }
  }
}

/// One block per query and KV head: selected nodes as bits in shared memory, then a bit per key.
__global__ void select_masks_kernel(SelectedNodes nodes, const std::int32_t* key_nodes,
                                    std::int32_t num_keys, std::uint64_t* masks,
                                    std::int32_t mask_words) {
  extern __shared__ unsigned int bits[];
  const std::int64_t place = static_cast<std::int64_t>(blockIdx.x) * gridDim.y + blockIdx.y;
  for (int i = threadIdx.x; i < (nodes.num_bits + 31) / 32; i += blockDim.x) bits[i] = 0;
  __syncthreads();
  for (int list = 0; list < nodes.num_lists; ++list) {
    const std::int64_t* const ids = nodes.ids[list] + place * nodes.width[list];
    for (int i = threadIdx.x; i < nodes.width[list]; i += blockDim.x) {
      if (ids[i] < 0) continue;
      const int bit = nodes.first_bit[list] + static_cast<int>(ids[i]);
      atomicOr(&bits[bit / 32], 1U << (bit % 32));
    }
  }
  __syncthreads();
  auto* const words = reinterpret_cast<unsigned int*>(masks + place * mask_words);
  for (int first = 0; first < 64 * mask_words; first += blockDim.x) {
    const int key = first + threadIdx.x;
    const int node = key < num_keys ? key_nodes[key] : -1;
    const bool selected = node >= 0 && (bits[node / 32] >> (node % 32) & 1);
    const unsigned int word = __ballot_sync(0xffffffff, selected);
    if (threadIdx.x % 32 == 0 && key < 64 * mask_words) words[key / 32] = word;
  }
}

template <int D>
void forward(const Problem& p, bf16* out, float* lse, void* stream) {
  const dim3 grid(p.plan.num_query_tiles, p.shape.num_heads);
  launch(kWhat, forward_kernel<D>, grid, kThreads, 5 * kPackedTile * D * sizeof(bf16), stream, p,
         out, lse);
}

template <int D>
void backward(const Problem& p, const bf16* out, const Gradients& g, float* delta, void* stream) {
  const std::size_t shared_bytes = 6 * kPackedTile * D * sizeof(bf16);
  const std::int64_t num_places = p.shape.num_rows * p.shape.num_heads;
  launch(kWhat, delta_kernel<D>, dim3((num_places + 7) / 8), 256, 0, stream, out, g.grad_out, delta,
         num_places);
  launch(kWhat, grad_key_value_kernel<D>, dim3(p.plan.num_key_tiles, p.shape.num_kv_heads),
         kThreads, shared_bytes, stream, p, g);
  launch(kWhat, grad_query_kernel<D>, dim3(p.plan.num_query_tiles, p.shape.num_heads), kThreads,
         shared_bytes, stream, p, g);
}

Problem make_problem(const PackedShape& shape, const PackedPlan& plan, const void* q, const void* k,
                     const void* v) {
  if (shape.head_dim != 64 && shape.head_dim != 128) {
    throw std::runtime_error("packed attention: head size has to be 64 or 128");
  }
  return {shape, plan, static_cast<const bf16*>(q), static_cast<const bf16*>(k),
          static_cast<const bf16*>(v)};
}

}  // namespace

void sm80_bf16_packed_attention(const PackedShape& shape, const PackedPlan& plan, const void* q,
                                const void* k, const void* v, void* out, float* lse, void* stream) {
  const Problem p = make_problem(shape, plan, q, k, v);
  auto* const to = static_cast<bf16*>(out);
  shape.head_dim == 64 ? forward<64>(p, to, lse, stream) : forward<128>(p, to, lse, stream);
}

void sm80_bf16_packed_attention_backward(const PackedShape& shape, const PackedPlan& plan,
                                         const void* q, const void* k, const void* v,
                                         const void* out, const void* grad_out, const float* lse,
                                         float* delta, void* grad_q, void* grad_k, void* grad_v,
                                         void* stream) {
  const Problem p = make_problem(shape, plan, q, k, v);
  const Gradients g{static_cast<const bf16*>(grad_out),
                    lse,
                    delta,
                    static_cast<bf16*>(grad_q),
                    static_cast<bf16*>(grad_k),
                    static_cast<bf16*>(grad_v)};
  const auto* const from = static_cast<const bf16*>(out);
  shape.head_dim == 64 ? backward<64>(p, from, g, delta, stream)
                       : backward<128>(p, from, g, delta, stream);
}

void sm80_select_masks(const SelectedNodes& nodes, const std::int32_t* key_nodes,
                       std::int32_t num_keys, std::int32_t num_queries, int num_kv_heads,
                       std::uint64_t* masks, std::int32_t mask_words, void* stream) {
  const std::size_t shared_bytes = (nodes.num_bits + 31) / 32 * sizeof(unsigned int);
  launch(kWhat, select_masks_kernel, dim3(num_queries, num_kv_heads), 128, shared_bytes, stream,
         nodes, key_nodes, num_keys, masks, mask_words);
}

}  // namespace gsa::kernels
