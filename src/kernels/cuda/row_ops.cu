#include <cuda_bf16.h>

#include <cmath>

#include "kernels/cuda/build.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/row_ops.h"

namespace gsa::kernels {
namespace {

using bf16 = __nv_bfloat16;
constexpr int kThreads = 256;
constexpr int kOctet = 8;  // bf16 values of one 16-byte access

struct Octet {
  float value[kOctet];
};

__device__ __forceinline__ Octet load_octet(const bf16* from) {
  const uint4 bits = *reinterpret_cast<const uint4*>(from);
  const auto* const pairs = reinterpret_cast<const __nv_bfloat162*>(&bits);
  Octet octet;
#pragma unroll
  for (int i = 0; i < kOctet / 2; ++i) {
    const float2 pair = __bfloat1622float2(pairs[i]);
    octet.value[2 * i] = pair.x;
    octet.value[2 * i + 1] = pair.y;
  }
  return octet;
}

__device__ __forceinline__ void store_octet(bf16* to, const Octet& octet) {
  uint4 bits;
  auto* const pairs = reinterpret_cast<__nv_bfloat162*>(&bits);
#pragma unroll
  for (int i = 0; i < kOctet / 2; ++i)
    pairs[i] = __floats2bfloat162_rn(octet.value[2 * i], octet.value[2 * i + 1]);
  *reinterpret_cast<uint4*>(to) = bits;
}

__device__ __forceinline__ Octet load_floats(const float* from) {
  Octet octet;
  *reinterpret_cast<float4*>(octet.value) = *reinterpret_cast<const float4*>(from);
  *reinterpret_cast<float4*>(octet.value + 4) = *reinterpret_cast<const float4*>(from + 4);
  return octet;
}

__device__ __forceinline__ float sigmoid(float x) { return 1.F / (1.F + __expf(-x)); }

/// A thread takes an octet of the first half of a head and its partner in the second.
__global__ void rope_kernel(RopeArgs args) {
  const int octets = args.head_dim / 2 / kOctet;
  const std::int64_t per_row = static_cast<std::int64_t>(args.num_heads) * octets;
  const std::int64_t idx = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (idx >= args.num_rows * per_row) return;
  const std::int64_t row = idx / per_row;
  const int head = static_cast<int>(idx % per_row) / octets;
  const int dim = static_cast<int>(idx % octets) * kOctet;
  const int half = args.head_dim / 2;
  const auto* const from =
      static_cast<const bf16*>(args.x) + row * args.row_stride + head * args.head_dim + dim;
  auto* const to = static_cast<bf16*>(args.out) +
                   (row * args.num_heads + head) * static_cast<std::int64_t>(args.head_dim) + dim;
  Octet low = load_octet(from), high = load_octet(from + half);
  if (head < args.num_rotated) {
    const Octet cos = load_floats(args.cos + row * half + dim);
    const Octet sin = load_floats(args.sin + row * half + dim);
#pragma unroll
    for (int i = 0; i < kOctet; ++i) {
      const float x1 = low.value[i], x2 = high.value[i], s = args.sin_sign * sin.value[i];
      low.value[i] = x1 * cos.value[i] - x2 * s;
      high.value[i] = x2 * cos.value[i] + x1 * s;
    }
  }
  store_octet(to, low);
  store_octet(to + half, high);
}

__global__ void swiglu_kernel(const bf16* gate_up, bf16* out, std::int64_t num_rows,
                              std::int64_t width) {
  const std::int64_t octets = width / kOctet;
  const std::int64_t idx = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (idx >= num_rows * octets) return;
  const std::int64_t row = idx / octets, dim = idx % octets * kOctet;
  const bf16* const from = gate_up + row * 2 * width + dim;
  Octet gate = load_octet(from);
  const Octet up = load_octet(from + width);
#pragma unroll
  for (int i = 0; i < kOctet; ++i) gate.value[i] *= sigmoid(gate.value[i]) * up.value[i];
  store_octet(out + row * width + dim, gate);
}

__global__ void swiglu_backward_kernel(const bf16* gate_up, const bf16* grad_out, bf16* grad,
                                       std::int64_t num_rows, std::int64_t width) {
  const std::int64_t octets = width / kOctet;
  const std::int64_t idx = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (idx >= num_rows * octets) return;
  const std::int64_t row = idx / octets, dim = idx % octets * kOctet;
  const std::int64_t at = row * 2 * width + dim;
  Octet gate = load_octet(gate_up + at), up = load_octet(gate_up + at + width);
  const Octet grads = load_octet(grad_out + row * width + dim);
#pragma unroll
  for (int i = 0; i < kOctet; ++i) {
    const float x = gate.value[i], s = sigmoid(x), g = grads.value[i];
    gate.value[i] = g * up.value[i] * s * (1.F + x * (1.F - s));
    up.value[i] = g * x * s;
  }
  store_octet(grad + at, gate);
  store_octet(grad + at + width, up);
}

/// A running maximum and the sum of exponentials relative to it.
struct SoftmaxSum {
  float peak = -INFINITY, sum = 0;

  __device__ void add(float value) {
    if (value <= peak) {
      sum += __expf(value - peak);
    } else {
      sum = sum * __expf(peak - value) + 1.F;
      peak = value;
    }
  }
  __device__ void merge(float other_peak, float other_sum) {
    if (other_sum == 0.F) return;
    const float joint = fmaxf(peak, other_peak);
    sum = (sum == 0.F ? 0.F : sum * __expf(peak - joint)) + other_sum * __expf(other_peak - joint);
    peak = joint;
  }
};

/// A block per row; threads merge in a fixed order.
__device__ SoftmaxSum reduce_block(SoftmaxSum mine) {
  __shared__ float peaks[kThreads / 32], sums[kThreads / 32];
  for (int offset = 16; offset > 0; offset /= 2) {
    mine.merge(__shfl_xor_sync(0xffffffff, mine.peak, offset),
               __shfl_xor_sync(0xffffffff, mine.sum, offset));
  }
  if (threadIdx.x % 32 == 0) {
    peaks[threadIdx.x / 32] = mine.peak;
    sums[threadIdx.x / 32] = mine.sum;
  }
  __syncthreads();
  SoftmaxSum all;
  for (int warp = 0; warp < kThreads / 32; ++warp) all.merge(peaks[warp], sums[warp]);
  return all;
}

__global__ __launch_bounds__(kThreads) void cross_entropy_kernel(bf16* logits,
                                                                 const std::int64_t* labels,
                                                                 float* loss, std::int64_t vocab) {
  bf16* const row = logits + blockIdx.x * vocab;
  const std::int64_t label = labels[blockIdx.x];
  SoftmaxSum mine;
  for (std::int64_t i = threadIdx.x * kOctet; i < vocab; i += kThreads * kOctet) {
    const Octet octet = load_octet(row + i);
#pragma unroll
    for (int j = 0; j < kOctet; ++j) mine.add(octet.value[j]);
  }
  const SoftmaxSum all = reduce_block(mine);
  const float lse = all.peak + __logf(all.sum);
  if (threadIdx.x == 0) loss[blockIdx.x] = lse - __bfloat162float(row[label]);
  __syncthreads();  // the label's logit is read before it is overwritten
  for (std::int64_t i = threadIdx.x * kOctet; i < vocab; i += kThreads * kOctet) {
    Octet octet = load_octet(row + i);
#pragma unroll
    for (int j = 0; j < kOctet; ++j)
      octet.value[j] = __expf(octet.value[j] - lse) - (i + j == label ? 1.F : 0.F);
    store_octet(row + i, octet);
  }
}

dim3 blocks_for(std::int64_t num_threads) {
  return dim3(static_cast<unsigned>((num_threads + kThreads - 1) / kThreads));
}

}  // namespace

bool has_cuda_kernels(int device) {
  int major = 0;
  return cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device) == cudaSuccess &&
         major >= 8;
}

void sm80_bf16_rope(const RopeArgs& args, void* stream) {
  const std::int64_t count = args.num_rows * args.num_heads * (args.head_dim / 2 / kOctet);
  launch("rope", rope_kernel, blocks_for(count), kThreads, 0, stream, args);
}

void sm80_bf16_swiglu(const void* gate_up, void* out, std::int64_t num_rows, std::int64_t width,
                      void* stream) {
  launch("swiglu", swiglu_kernel, blocks_for(num_rows * (width / kOctet)), kThreads, 0, stream,
         static_cast<const bf16*>(gate_up), static_cast<bf16*>(out), num_rows, width);
}

void sm80_bf16_swiglu_backward(const void* gate_up, const void* grad_out, void* grad,
                               std::int64_t num_rows, std::int64_t width, void* stream) {
  launch("swiglu backward", swiglu_backward_kernel, blocks_for(num_rows * (width / kOctet)),
         kThreads, 0, stream, static_cast<const bf16*>(gate_up), static_cast<const bf16*>(grad_out),
         static_cast<bf16*>(grad), num_rows, width);
}

void sm80_bf16_cross_entropy(void* logits, const std::int64_t* labels, float* loss,
                             std::int64_t num_rows, std::int64_t vocab, void* stream) {
  launch("cross entropy", cross_entropy_kernel, dim3(static_cast<unsigned>(num_rows)), kThreads, 0,
         stream, static_cast<bf16*>(logits), labels, loss, vocab);
}

}  // namespace gsa::kernels
