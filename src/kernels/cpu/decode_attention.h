#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "core/quant.h"
#include "kernels/cpu/isa.h"
#include "kernels/cpu/parallel.h"

// Attention of one new row of every query head over keys that lie in runs of memory, and what a
// policy needs to choose them: scores and the best of them. f32 in and out, sums in f32.
namespace gsa::kernels {

/// Consecutive keys and their values, at least one; a row has d elements and the next follows it.
struct KeyRun {
  const void* k = nullptr;  // [count, d]
  const void* v = nullptr;  // [count, d]
  std::int64_t count = 0;
};

/// The keys that the query heads of one KV head attend to, in any order.
struct KeyRuns {
  std::span<const KeyRun> runs;
  std::int64_t num_keys = 0;  ///< of all runs
};

struct DecodeShape {
  core::DataType type = core::DataType::f32;  ///< of keys and values: f32, f16 or bf16
  std::int64_t num_kv_heads = 0;
  std::int64_t group = 0;     ///< query heads per KV head
  std::int64_t head_dim = 0;  ///< a multiple of 8, at most kMaxHeadDim
  float scale = 1;            ///< of the scores, positive
};
inline constexpr std::int64_t kMaxHeadDim = 512;

/// The instruction set whose kernels are the fastest here: not always the last that is supported.
Isa decode_isa();

/// Bytes of `scratch` that `decode_attention` needs.
std::int64_t decode_scratch_bytes(const DecodeShape& shape, int num_threads);

/// out = softmax(scale * q k^T) v, one softmax per query head over the keys of its KV head; 0 where
/// there is none. Every key and value is read from memory once: the heads of a group share it, and
/// the work is cut into equal numbers of keys whatever the heads and runs, whose partial results
/// merge by their peaks and sums. With AVX-512 BF16 and keys in bf16, q and the weights are rounded
/// to bf16.
///   q, out   [num_kv_heads * group, head_dim]
///   heads    [num_kv_heads]
///   scratch  `decode_scratch_bytes`, aligned to 64
void decode_attention(const DecodeShape& shape, const float* q, std::span<const KeyRuns> heads,
                      std::byte* scratch, float* out, Parallel& parallel, Isa isa = decode_isa());

/// Scores q . k, unscaled, in f32 whatever the type of the keys; values are not looked at.
///   q [num_queries, head_dim]; out[i * stride + j] of query i and key j of all runs in a row
void score_keys(core::DataType type, const float* q, std::int64_t num_queries,
                std::int64_t head_dim, const KeyRuns& keys, float* out, std::int64_t stride,
                Isa isa = decode_isa());

/// Indices of the k largest of `scores` [count], ascending; of equal ones the first. What is -inf
/// is left out, so there may be fewer; a NaN is above or below all by its sign.
///   keys  [count] scratch
///   ids   [min(k, count)]
/// Returns their number.
std::int64_t top_k(const float* scores, std::int64_t count, std::int64_t k, std::int32_t* keys,
                   std::int32_t* ids, Isa isa = decode_isa());

}  // namespace gsa::kernels
