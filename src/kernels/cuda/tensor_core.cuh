#pragma once

#include <cuda_bf16.h>

#include <cstdint>

// Tiles of 64 rows in shared memory and the m16n8k16 products over them.
namespace gsa::kernels {

using bf16 = __nv_bfloat16;

/// Place of 8 consecutive elements of a row. The exclusive or spreads the rows that one ldmatrix
/// reads over all banks.
template <int D>
__device__ __forceinline__ int tile_offset(int row, int octet) {
  return row * D + ((octet ^ (row & 7)) << 3);
}

__device__ __forceinline__ std::uint32_t shared_address(const void* pointer) {
  return static_cast<std::uint32_t>(__cvta_generic_to_shared(pointer));
}

/// Copies N bytes without waiting, or fills with zeros.
template <int N>
__device__ __forceinline__ void copy_async(void* to, const void* from, bool valid) {
  const int num_bytes = valid ? N : 0;
  if constexpr (N == 16) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)),
                 "l"(from), "r"(num_bytes));
  } else {
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(shared_address(to)),
                 "l"(from), "n"(N), "r"(num_bytes));
  }
}
__device__ __forceinline__ void commit_copies() { asm volatile("cp.async.commit_group;"); }
template <int Pending>
__device__ __forceinline__ void wait_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(Pending));
}

/// Starts loading rows [first, first + 64) of one head into a tile; rows at or after `end` become
/// zeros.
template <int D>
__device__ __forceinline__ void load_rows(bf16* tile, const bf16* head, std::int64_t stride,
                                          int first, int end) {
  constexpr int octets = D / 8;
  for (int i = threadIdx.x; i < 64 * octets; i += blockDim.x) {
    const int row = i / octets, octet = i % octets;
    const bool valid = first + row < end;
    const bf16* from = head + (valid ? first + row : first) * stride + octet * 8;
    copy_async<16>(tile + tile_offset<D>(row, octet), from, valid);
  }
}

__device__ __forceinline__ void load_matrices(std::uint32_t (&r)[4], const bf16* address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(address)));
}
__device__ __forceinline__ void load_transposed(std::uint32_t (&r)[4], const bf16* address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(address)));
}

/// Left operand: rows [row, row + 16), columns [16 kk, 16 kk + 16).
template <int D>
__device__ __forceinline__ void load_left(std::uint32_t (&r)[4], const bf16* tile, int row,
                                          int kk) {
  const int lane = threadIdx.x % 32;
  load_matrices(r, tile + tile_offset<D>(row + (lane & 15), 2 * kk + (lane >> 4)));
}
/// Right operand of A B^T for two groups of 8 rows from `row` on: {r0, r1} and {r2, r3}.
template <int D>
__device__ __forceinline__ void load_right(std::uint32_t (&r)[4], const bf16* tile, int row,
                                           int kk) {
  const int lane = threadIdx.x % 32;
  load_matrices(
      r, tile + tile_offset<D>(row + (lane & 7) + ((lane >> 4) << 3), 2 * kk + ((lane >> 3) & 1)));
}
/// Right operand of A B: rows [row, row + 16) of B, two groups of 8 columns from 8 * octet on.
template <int D>
__device__ __forceinline__ void load_right_rows(std::uint32_t (&r)[4], const bf16* tile, int row,
                                                int octet) {
  const int lane = threadIdx.x % 32;
  load_transposed(r, tile + tile_offset<D>(row + (lane & 15), octet + (lane >> 4)));
}

/// c [16, 8] += a [16, 16] b [16, 8]. Thread `lane` holds rows lane / 4 and lane / 4 + 8, columns
/// 2 (lane % 4) and the next: c[0], c[1] and c[2], c[3].
__device__ __forceinline__ void multiply_add(float (&c)[4], const std::uint32_t (&a)[4],
                                             std::uint32_t b0, std::uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

__device__ __forceinline__ std::uint32_t pack(float low, float high) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  return *reinterpret_cast<const std::uint32_t*>(&pair);
}
/// Two neighbouring results as the left operand of the next product.
__device__ __forceinline__ void as_left(std::uint32_t (&a)[4], const float (&c0)[4],
                                        const float (&c1)[4]) {
  a[0] = pack(c0[0], c0[1]);
  a[1] = pack(c0[2], c0[3]);
  a[2] = pack(c1[0], c1[1]);
  a[3] = pack(c1[2], c1[3]);
}

}  // namespace gsa::kernels
