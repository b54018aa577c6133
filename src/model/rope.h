#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "model/config.h"

namespace gsa::model {

/// Inverse frequencies, [head_dim / 2] f32 on the CPU, stretched as the configuration says.
at::Tensor rope_inv_freq(const ModelConfig& config);

/// Cosine and sine of every rotation angle of a batch; one object serves all layers of a forward.
struct RopeTable {
  at::Tensor cos;  // [T, 1, d / 2] f32
  at::Tensor sin;  // [T, 1, d / 2] f32
};

/// Angles positions x frequencies, computed in f32 like the reference implementations, so that long
/// positions agree.
///   positions [T] int64, inv_freq [d / 2] f32 on the same device
RopeTable rope_table(const at::Tensor& positions, const at::Tensor& inv_freq,
                     double attention_factor);

/// Rotates pairs (x_i, x_{i + d/2}) of the first `num_rotated` heads: the "rotate half" convention
/// of Hugging Face row order. The other heads stay as they are.
///   x [T, H, d]; computed in f32, returned in the dtype of x. Differentiable in x; nothing but the
///   table is kept for backward.
at::Tensor apply_rope(const at::Tensor& x, const RopeTable& table, std::int64_t num_rotated);

}  // namespace gsa::model
