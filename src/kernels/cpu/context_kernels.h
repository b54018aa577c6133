#pragma once

#include <cstddef>

#include "kernels/cpu/context_attention.h"

// What one instruction set implements of context_attention.h; not for other layers.
namespace gsa::kernels {

/// The rows of the query heads of one KV head for some consecutive queries.
struct ContextBlock {
  const ContextShape* shape;
  const KeyColumn* columns;
  int num_columns;
  std::int64_t kv_head;
  std::int64_t first_query, num_queries;
  const void* q;  // of the whole call, as are out and lse
  void* out;
  float* lse;
  std::byte* scratch;  ///< aligned to 64
};

struct ContextKernel {
  /// Bytes of scratch for blocks of up to `num_queries`.
  std::int64_t (*scratch_bytes)(const ContextShape& shape, std::int64_t num_queries);
  void (*attend)(const ContextBlock& block);
};

extern const ContextKernel context_portable;
extern const ContextKernel context_avx2;
extern const ContextKernel context_avx512;
extern const ContextKernel context_avx512_bf16;  ///< keys in bf16 only
extern const ContextKernel context_amx;          ///< keys in bf16, head_dim a multiple of 32

}  // namespace gsa::kernels
