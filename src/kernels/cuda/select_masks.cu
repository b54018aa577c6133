#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/packed_attention.h"

namespace gsa::kernels {
namespace {

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

}  // namespace

void sm80_select_masks(const SelectedNodes& nodes, const std::int32_t* key_nodes,
                       std::int32_t num_keys, std::int32_t num_queries, int num_kv_heads,
                       std::uint64_t* masks, std::int32_t mask_words, void* stream) {
  const std::size_t shared_bytes = (nodes.num_bits + 31) / 32 * sizeof(unsigned int);
  launch("selection masks", select_masks_kernel, dim3(num_queries, num_kv_heads), 128, shared_bytes,
         stream, nodes, key_nodes, num_keys, masks, mask_words);
}

}  // namespace gsa::kernels
