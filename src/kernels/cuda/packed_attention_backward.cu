#include "kernels/cuda/packed_attention.cuh"

namespace gsa::kernels {
namespace {

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

/// The operand of the scores and that of their gradient: queries with grad_out, or keys with
/// values.
struct TilePair {
  const bf16 *score, *grad;
};

/// Adds the products of a warp's 16 rows of the left tiles with rows [first, first + kHalf) of the
/// right ones: scores and the gradients of probabilities.
template <int D>
__device__ __forceinline__ void multiply_pairs(float (&s)[kHalf / 8][4], float (&dp)[kHalf / 8][4],
                                               TilePair left, int warp_row, TilePair right,
                                               int first) {
#pragma unroll
  for (int kk = 0; kk < D / 16; ++kk) {
    std::uint32_t score_left[4], grad_left[4];
    load_left<D>(score_left, left.score, warp_row, kk);
    load_left<D>(grad_left, left.grad, warp_row, kk);
#pragma unroll
    for (int j = 0; j < kHalf / 8; j += 2) {
      std::uint32_t rows[4];
      load_right<D>(rows, right.score, first + 8 * j, kk);
      multiply_add(s[j], score_left, rows[0], rows[1]);
      multiply_add(s[j + 1], score_left, rows[2], rows[3]);
      load_right<D>(rows, right.grad, first + 8 * j, kk);
      multiply_add(dp[j], grad_left, rows[0], rows[1]);
      multiply_add(dp[j + 1], grad_left, rows[2], rows[3]);
    }
  }
}

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
      multiply_pairs<D>(s, dp, {q_tile, o_tile}, warp_row, {k_tile, v_tile}, half);
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
      multiply_pairs<D>(s, dp, {k_tile, v_tile}, warp_row, {q_tile, o_tile}, half);
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

template <int D>
void backward(const Problem& p, const bf16* out, const Gradients& g, float* delta, void* stream) {
  const std::size_t shared_bytes = 6 * kPackedTile * D * sizeof(bf16);
  const std::int64_t num_places = p.shape.num_rows * p.shape.num_heads;
  launch(kPackedName, delta_kernel<D>, dim3((num_places + 7) / 8), 256, 0, stream, out, g.grad_out,
         delta, num_places);
  launch(kPackedName, grad_key_value_kernel<D>, dim3(p.plan.num_key_tiles, p.shape.num_kv_heads),
         kThreads, shared_bytes, stream, p, g);
  launch(kPackedName, grad_query_kernel<D>, dim3(p.plan.num_query_tiles, p.shape.num_heads),
         kThreads, shared_bytes, stream, p, g);
}

}  // namespace

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

}  // namespace gsa::kernels
