#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

#include <cstdint>

#include "attention/layout.h"
#include "attention/policy.h"
#include "model/model.h"

namespace gsa::apps {

/// Bytes of the weights that one step of decoding reads: all of them, but of an embedding that is
/// not the output matrix too a single row.
double weight_bytes_per_step(const model::Model& model);

/// Floating-point operations, two per multiply-add, that reading a context takes: products with the
/// weights for every raw token and gist, and attention for the keys that each may see. What follows
/// the last layer's attention is not computed, and norms and RoPE are not counted.
double prefill_flops(const model::ModelConfig& config, const attention::Layout& layout,
                     const attention::Policy& policy);

/// An array of ones, f32, that is larger than the caches (1 GiB, less where memory is short):
/// reading it leaves nothing else in them.
at::Tensor make_large_array(at::Device device);

/// Bytes per second at which a device sums a large array: the best of a few repetitions, with the
/// threads that are set.
double measure_stream_bandwidth(at::Device device);

}  // namespace gsa::apps
