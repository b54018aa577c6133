#include "kernels/cuda/packed_attention.cuh"

namespace gsa::kernels {
namespace {

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

template <int D>
void forward(const Problem& p, bf16* out, float* lse, void* stream) {
  const dim3 grid(p.plan.num_query_tiles, p.shape.num_heads);
  launch(kPackedName, forward_kernel<D>, grid, kThreads, 5 * kPackedTile * D * sizeof(bf16), stream,
         p, out, lse);
}

}  // namespace

void sm80_bf16_packed_attention(const PackedShape& shape, const PackedPlan& plan, const void* q,
                                const void* k, const void* v, void* out, float* lse, void* stream) {
  const Problem p = make_problem(shape, plan, q, k, v);
  auto* const to = static_cast<bf16*>(out);
  shape.head_dim == 64 ? forward<64>(p, to, lse, stream) : forward<128>(p, to, lse, stream);
}

}  // namespace gsa::kernels
