#pragma once

#include <ATen/core/Tensor.h>

namespace gsa::model {

/// silu(gate) * up of gate_up [T, 2 n], gate first: [T, n]. For its gradient it keeps gate_up
/// alone; silu is computed again.
at::Tensor swiglu(const at::Tensor& gate_up);

}  // namespace gsa::model
