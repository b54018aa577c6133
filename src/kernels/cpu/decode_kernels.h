#pragma once

#include "kernels/cpu/decode_attention.h"

// What one instruction set implements of decode_attention.h; not for other layers.
namespace gsa::kernels {

/// Values of a row of an accumulator: d, rounded up to whole registers.
constexpr std::int64_t padded_dim(std::int64_t head_dim) { return (head_dim + 31) / 32 * 32; }

/// Keys [begin, end) of the runs of one KV head, counted through all of them.
struct PieceArgs {
  const KeyRun* runs;
  std::int64_t begin, end;
  core::DataType type;
  std::int64_t group, head_dim;
  float scale;
  const float* q;         // [group, head_dim]
  const float* own_q;     // [group, padded_dim], what `prepare` made of it
  float* sums_of_values;  // [group, padded_dim] out: sum of weight times value
  float* peaks;           // [group] out: largest score
  float* sums;            // [group] out: sum of weights, exp(scale * (score - peak))
};

struct ScoreArgs {
  core::DataType type;
  const float* q;  // [num_queries, head_dim]
  std::int64_t num_queries, head_dim;
  const KeyRun* runs;
  std::int64_t num_keys;  ///< of all runs
  float* out;             // [num_queries, stride]
  std::int64_t stride;
};

struct DecodeKernels {
  /// Brings a row of q [head_dim] into the form that `piece` multiplies keys of a type with: out
  /// [padded_dim].
  void (*prepare)(core::DataType type, const float* q, std::int64_t head_dim, float* out);
  void (*piece)(const PieceArgs& args);
  void (*score)(const ScoreArgs& args);
  std::int64_t (*top_k)(const float* scores, std::int64_t count, std::int64_t k, std::int32_t* keys,
                        std::int32_t* ids);
};

extern const DecodeKernels decode_portable;
extern const DecodeKernels decode_avx2;
extern const DecodeKernels decode_avx512;
extern const DecodeKernels decode_avx512_bf16;

}  // namespace gsa::kernels
