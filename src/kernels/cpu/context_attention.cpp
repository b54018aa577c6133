#include "kernels/cpu/context_attention.h"

#include <algorithm>
#include <atomic>

#include "core/error.h"
#include "kernels/cpu/context_kernels.h"
#include "kernels/cpu/decode_attention.h"

namespace gsa::kernels {
namespace {

// Rows of a block: enough to pay for the form that keys and values are brought into, which all rows
// share; fewer where threads would have nothing to do.
constexpr std::int64_t kBlockRows = 384;
constexpr std::int64_t kMinBlockRows = 96;
constexpr std::int64_t kBlocksPerThread = 4;

const ContextKernel& kernel_for(const ContextShape& shape, Isa isa) {
#ifdef GSA_KERNELS_X86
  if (shape.type == core::DataType::bf16) {
    if (isa == Isa::amx && shape.head_dim % 32 == 0) return context_amx;
    if (isa == Isa::avx512_bf16) return context_avx512_bf16;
  }
  if (isa >= Isa::avx512) return context_avx512;
  if (isa == Isa::avx2) return context_avx2;
#endif
  (void)shape;
  (void)isa;
  return context_portable;
}

void check_shape(const ContextShape& shape) {
  if (shape.head_dim % 8 != 0 || shape.head_dim <= 0 || shape.head_dim > kMaxContextHeadDim) {
    core::internal_error("[context_attention] head size {} is no multiple of 8 up to {}",
                         shape.head_dim, kMaxContextHeadDim);
  }
  if (shape.type != core::DataType::f32 && shape.type != core::DataType::bf16)
    core::internal_error("[context_attention] keys in {}", core::data_type_name(shape.type));
  if (!(shape.scale > 0)) core::internal_error("[context_attention] scale {}", shape.scale);
}

std::int64_t queries_per_block(const ContextShape& shape, int num_threads) {
  const std::int64_t num_rows = shape.num_queries * shape.group * shape.num_kv_heads;
  const std::int64_t rows =
      std::clamp(num_rows / (kBlocksPerThread * num_threads), kMinBlockRows, kBlockRows);
  return std::max<std::int64_t>(1, rows / shape.group);
}

/// Scratch of one worker: a multiple of 64.
std::int64_t worker_bytes(const ContextShape& shape, const ContextKernel& kernel,
                          std::int64_t block_len) {
  return (kernel.scratch_bytes(shape, block_len) + 63) / 64 * 64;
}

}  // namespace

Isa context_isa() { return best_isa() == Isa::amx ? Isa::amx : decode_isa(); }

std::int64_t context_scratch_bytes(const ContextShape& shape, int num_threads, Isa isa) {
  check_shape(shape);
  return num_threads *
         worker_bytes(shape, kernel_for(shape, isa), queries_per_block(shape, num_threads));
}

void context_attention(const ContextShape& shape, const void* q, std::span<const KeyColumn> columns,
                       std::byte* scratch, void* out, float* lse, Parallel& parallel, Isa isa) {
  check_shape(shape);
  const ContextKernel& kernel = kernel_for(shape, isa);
  const int num_threads = parallel.num_threads();
  const std::int64_t block_len = queries_per_block(shape, num_threads);
  const std::int64_t num_parts = (shape.num_queries + block_len - 1) / block_len;
  const std::int64_t num_blocks = num_parts * shape.num_kv_heads;
  const auto num_workers = static_cast<int>(std::min<std::int64_t>(num_threads, num_blocks));
  if (num_workers == 0) return;

  const std::int64_t scratch_bytes = worker_bytes(shape, kernel, block_len);
  std::atomic<std::int64_t> num_taken = 0;
  parallel.run(num_workers, [&](int worker) {
    // From the back: later queries see more keys.
    for (std::int64_t i = num_taken++; i < num_blocks; i = num_taken++) {
      const std::int64_t part = num_parts - 1 - i / shape.num_kv_heads;
      const std::int64_t first = part * block_len;
      kernel.attend({&shape, columns.data(), static_cast<int>(columns.size()),
                     i % shape.num_kv_heads, first, std::min(block_len, shape.num_queries - first),
                     q, out, lse, scratch + worker * scratch_bytes});
    }
  });
}

}  // namespace gsa::kernels
