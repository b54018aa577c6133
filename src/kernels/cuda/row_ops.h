#pragma once

#include <cstdint>

// Operations on the rows of a batch that are bound by memory, each in one pass. bf16 in and out,
// f32 between. Plain device pointers; `stream` is a cudaStream_t. Needs compute capability 8.0.
// Throws if the launch fails.
namespace gsa::kernels {

/// Rotates the first heads of every row by the angles of its position ("rotate half") and copies
/// the others.
struct RopeArgs {
  const void* x;                      // [T, H, d], heads contiguous
  void* out;                          // [T, H, d] contiguous
  const float *cos, *sin;             // [T, d / 2]
  std::int64_t num_rows, row_stride;  ///< elements from one row of x to the next
  int num_heads, num_rotated;
  int head_dim;    ///< a multiple of 16; rows of x are aligned to 16 bytes
  float sin_sign;  ///< 1, or -1 to rotate back
};
void sm80_bf16_rope(const RopeArgs& args, void* stream);

/// out = silu(gate) * up.
///   gate_up [T, 2 width] contiguous, width a multiple of 8; out [T, width]
void sm80_bf16_swiglu(const void* gate_up, void* out, std::int64_t num_rows, std::int64_t width,
                      void* stream);
/// Gradient of the above: grad_out [T, width] -> grad [T, 2 width], contiguous.
void sm80_bf16_swiglu_backward(const void* gate_up, const void* grad_out, void* grad,
                               std::int64_t num_rows, std::int64_t width, void* stream);

/// Cross entropy of every row, and its gradient in place of the logits: softmax - one_hot(label).
///   logits [R, vocab] contiguous, vocab a multiple of 8; labels [R]; loss [R], in nats
void sm80_bf16_cross_entropy(void* logits, const std::int64_t* labels, float* loss,
                             std::int64_t num_rows, std::int64_t vocab, void* stream);

}  // namespace gsa::kernels
