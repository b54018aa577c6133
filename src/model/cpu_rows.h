#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "model/rope.h"

// The operations between the matrix products of a layer, for many rows on the CPU: one pass over
// the rows by the kernels of kernels/cpu/row_ops.h, in f32, where a composite of LibTorch's
// operations makes several and a tensor for each. Without gradient.
namespace gsa::model {

/// Whether they take these rows: f32 or bf16 on the CPU, the last dimension dense and the others
/// too, and nothing wants a gradient of them.
bool cpu_rows_take(const at::Tensor& x);

/// RMSNorm over the last dimension: x [..., n], weight [n].
at::Tensor norm_cpu_rows(const at::Tensor& x, const at::Tensor& weight, double epsilon);

/// `apply_rope`: x [T, H, d].
at::Tensor rope_cpu_rows(const at::Tensor& x, const RopeTable& table, std::int64_t num_rotated);

/// `swiglu`: gate_up [..., 2 n] -> [..., n].
at::Tensor swiglu_cpu_rows(const at::Tensor& gate_up);

}  // namespace gsa::model
