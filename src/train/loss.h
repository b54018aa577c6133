#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace gsa::train {

/// Another model's view of the same tokens, to distil from.
struct Teacher {
  at::Tensor hidden;  // [R, hidden'], after the final norm
  at::Tensor weight;  // [vocab, hidden'], of its output
  double share = 1;   ///< of the loss: KL(teacher || student); the rest is cross entropy
};

/// scale * sum over rows of the cross entropy of the next token, or of its mix with a teacher's KL.
///   hidden [R, hidden] after the final norm; weight [vocab, hidden] of the output, same dtype;
///   labels [R] int64. Returns a scalar, f32.
/// Works in blocks of rows, so no tensor of R x vocab exists, and computes the gradients of
/// `hidden` and (if it requires one) `weight` on the way: logits are made once. Softmax and sums in
/// f32.
at::Tensor token_loss(const at::Tensor& hidden, const at::Tensor& weight, const at::Tensor& labels,
                      double scale, const Teacher* teacher = nullptr,
                      std::int64_t block_rows = 8192);

}  // namespace gsa::train
