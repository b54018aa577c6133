#pragma once

#include "core/quant_blocks.h"
#include "kernels/cpu/bf16_inline.h"
#include "kernels/cpu/matrix_kernels.h"

// Weights of any type by way of f32, as plain loops that each instruction set compiles with its own
// flags; in an unnamed namespace for that reason.
namespace gsa::kernels {
namespace {

constexpr std::int64_t kChunk = 1024;  // values expanded at a time: whole blocks of every type

/// Values [begin, begin + count) of a run of blocks; returns count, at most kChunk.
inline std::int64_t expand_chunk(core::DataType type, const std::uint8_t* data, std::int64_t begin,
                                 std::int64_t end, float* out) {
  const std::int64_t count = end - begin < kChunk ? end - begin : kChunk;
  const std::int64_t len = core::block_len(type);
  core::expand_blocks(type, data + begin / len * core::block_bytes(type), count / len, out);
  return count;
}

void expand_to_bf16(core::DataType type, const std::uint8_t* data, std::int64_t num_values,
                    Bf16* out) {
  float chunk[kChunk];
  for (std::int64_t begin = 0; begin < num_values; begin += kChunk) {
    const std::int64_t count = expand_chunk(type, data, begin, num_values, chunk);
    to_bf16_row(chunk, count, out + begin);
  }
}

/// Independent sums, so that they may stay in wide registers.
inline float dot(const float* a, const float* b, std::int64_t n) {
  constexpr int kLanes = 16;
  float sums[kLanes] = {};
  std::int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    for (int j = 0; j < kLanes; ++j) sums[j] += a[i + j] * b[i + j];
  }
  float sum = 0;
  for (; i < n; ++i) sum += a[i] * b[i];
  for (const float s : sums) sum += s;
  return sum;
}

void expanded_product(const ProductArgs& args) {
  const Activations& x = *args.x;
  float chunk[kChunk];
  for (std::int64_t r = 0; r < args.num_rows; ++r) {
    for (std::int64_t t = 0; t < x.num_rows; ++t) args.y[t * args.y_stride + r] = 0;
    for (std::int64_t begin = 0; begin < x.num_cols; begin += kChunk) {
      const std::uint8_t* row = args.w + r * args.row_bytes;
      const std::int64_t count = expand_chunk(args.type, row, begin, x.num_cols, chunk);
      for (std::int64_t t = 0; t < x.num_rows; ++t)
        args.y[t * args.y_stride + r] += dot(chunk, x.f32 + t * x.num_cols + begin, count);
    }
  }
}

}  // namespace
}  // namespace gsa::kernels

/// Defines `table`.
#define GSA_EXPAND_KERNELS(table)                              \
  namespace gsa::kernels {                                     \
  const ExpandKernels table{expand_to_bf16, expanded_product}; \
  }
