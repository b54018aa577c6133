#pragma once

#include <ATen/core/Tensor.h>

#include <span>
#include <string>

#include "model/config.h"
#include "text/tokenizer.h"

namespace gsa::model {

/// Names a checkpoint, whatever file format and quantisation it comes in: SHA-256 (hexadecimal)
/// over the shapes, the vocabulary's digest, the norm weights rounded to bf16 and, if an adapter
/// was merged into it, what the model says about that. Quantisers leave norms alone, and training
/// of all weights moves them; merged updates do not.
std::string make_fingerprint(const ModelConfig& config, const text::Tokenizer& tokenizer,
                             std::span<const at::Tensor> norm_weights);

}  // namespace gsa::model
