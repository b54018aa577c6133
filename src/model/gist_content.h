#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

#include <cstdint>
#include <functional>
#include <span>

#include "attention/layout.h"
#include "attention/visible.h"

namespace gsa::model {

/// Embeddings [T, hidden] of tokens [T] int64.
using EmbeddingLookUp = std::function<at::Tensor(const at::Tensor& tokens)>;

/// Mean embedding of all raw tokens under each of some gists (at least one): [count, hidden] f32.
/// `raw_tokens` are ids from the context's first token on. A mean is added up in an order that
/// follows from its own tokens alone, so it is the same to the bit whatever else is asked for.
/// Differentiable; memory beyond the result is bounded.
at::Tensor content_means(const attention::Layout& layout, const attention::QuerySlice& gists,
                         std::span<const std::int64_t> raw_tokens, const EmbeddingLookUp& look_up,
                         at::Device device);

}  // namespace gsa::model
