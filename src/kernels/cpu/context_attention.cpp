#include "kernels/cpu/context_attention.h"

#include <algorithm>
#include <atomic>
#include <memory>
#include <new>

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
}

std::int64_t queries_per_block(const ContextShape& shape, int num_threads) {
  const std::int64_t num_rows = shape.num_queries * shape.group * shape.num_kv_heads;
  const std::int64_t rows =
      std::clamp(num_rows / (kBlocksPerThread * num_threads), kMinBlockRows, kBlockRows);
  return std::max<std::int64_t>(1, rows / shape.group);
}

/// Memory aligned to cache lines.
struct AlignedDelete {
  void operator()(std::byte* p) const { ::operator delete(p, std::align_val_t{64}); }
};
using AlignedBytes = std::unique_ptr<std::byte, AlignedDelete>;

AlignedBytes aligned_bytes(std::int64_t count) {
  return AlignedBytes(static_cast<std::byte*>(::operator new(count, std::align_val_t{64})));
}

}  // namespace

Isa context_isa() { return best_isa() == Isa::amx ? Isa::amx : decode_isa(); }

void context_attention(const ContextShape& shape, const void* q, std::span<const KeyColumn> columns,
                       void* out, float* lse, Parallel& parallel, Isa isa) {
  check_shape(shape);
  const ContextKernel& kernel = kernel_for(shape, isa);
  const int num_threads = parallel.num_threads();
  const std::int64_t block_len = queries_per_block(shape, num_threads);
  const std::int64_t num_parts = (shape.num_queries + block_len - 1) / block_len;
  const std::int64_t num_blocks = num_parts * shape.num_kv_heads;
  const auto num_workers = static_cast<int>(std::min<std::int64_t>(num_threads, num_blocks));
  if (num_workers == 0) return;

  const std::int64_t scratch_bytes = (kernel.scratch_bytes(shape, block_len) + 63) / 64 * 64;
  const AlignedBytes scratch = aligned_bytes(num_workers * scratch_bytes);
  std::atomic<std::int64_t> num_taken = 0;
  parallel.run(num_workers, [&](int worker) {
    // From the back: later queries see more keys.
    for (std::int64_t i = num_taken++; i < num_blocks; i = num_taken++) {
      const std::int64_t part = num_parts - 1 - i / shape.num_kv_heads;
      const std::int64_t first = part * block_len;
      kernel.attend({&shape, columns.data(), static_cast<int>(columns.size()),
                     i % shape.num_kv_heads, first, std::min(block_len, shape.num_queries - first),
                     q, out, lse, scratch.get() + worker * scratch_bytes});
    }
  });
}

}  // namespace gsa::kernels
