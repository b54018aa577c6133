#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "core/quant.h"
#include "kernels/cpu/isa.h"
#include "kernels/cpu/parallel.h"

// Attention of many rows whose visible keys are ranges: causal attention, the gist mask (method
// §2). Memory is a constant per thread, whatever the number of keys.
namespace gsa::kernels {

/// Consecutive keys and values of all KV heads. Head h of entry begin + i lies at element
/// h * head_stride + i * row_stride, its head_dim elements side by side.
struct KeySpan {
  const void* k = nullptr;
  const void* v = nullptr;
  std::int64_t head_stride = 0, row_stride = 0;
  std::int64_t begin = 0, len = 0;
};

/// Entries of one arena and which of them every query sees: [begin, end), inside the spans. The
/// columns of a query are disjoint.
struct KeyColumn {
  const KeySpan* spans = nullptr;       ///< ascending, as many as the ranges need
  const std::int64_t* begin = nullptr;  // [num_queries]
  const std::int64_t* end = nullptr;    // [num_queries]
};

struct ContextShape {
  core::DataType type = core::DataType::f32;  ///< of everything: f32 or bf16
  std::int64_t num_queries = 0;
  std::int64_t num_kv_heads = 0;
  std::int64_t group = 0;     ///< query heads per KV head
  std::int64_t head_dim = 0;  ///< a multiple of 8, at most kMaxContextHeadDim
  float scale = 1;            ///< of the scores, positive
};
inline constexpr std::int64_t kMaxContextHeadDim = 512;

/// The instruction set whose kernels are the fastest here.
Isa context_isa();

/// Bytes of `scratch` that `context_attention` needs, however many keys there are.
std::int64_t context_scratch_bytes(const ContextShape& shape, int num_threads,
                                   Isa isa = context_isa());

/// out = softmax(scale * q k^T) v over the keys that the columns show, and the logarithm of the sum
/// of exp(scale * score); 0 and -inf where a query sees none, NaN where a score is NaN. Sums are in
/// f32; with bf16 operands and an instruction set that multiplies them, weights are rounded to
/// bf16.
///   q, out  [num_queries, num_kv_heads * group, head_dim]
///   lse     [num_queries, num_kv_heads * group]
///   scratch `context_scratch_bytes`, aligned to 64
/// Internal error for a shape that it does not take.
void context_attention(const ContextShape& shape, const void* q, std::span<const KeyColumn> columns,
                       std::byte* scratch, void* out, float* lse, Parallel& parallel,
                       Isa isa = context_isa());

}  // namespace gsa::kernels
