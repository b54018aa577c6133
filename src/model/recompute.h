#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <vector>

namespace gsa::model {

/// `f(x)`, keeping only x until backward, which runs f again and differentiates that (activation
/// checkpointing).
///   tensors: whatever else f computes with that requires a gradient, leaves or not
/// Both runs have grad mode on, so that f takes the same path. It has to give the same result both
/// times, and what it refers to has to live until backward is done.
at::Tensor recomputed(std::function<at::Tensor(const at::Tensor&)> f, const at::Tensor& x,
                      const std::vector<at::Tensor>& tensors);

}  // namespace gsa::model
