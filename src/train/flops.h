#pragma once

#include <c10/core/Device.h>
#include <c10/core/ScalarType.h>

#include <cstdint>

#include "model/config.h"
#include "train/parameters.h"

namespace gsa::train {

/// Floating-point operations that one step needs for the products with weights: two per
/// multiply-add, forward and backward. Backward takes as much again for the gradient of the inputs
/// and, where a weight or its LoRA trains, once more for its own. Attention over keys, norms and
/// the factors of LoRA are not counted, nor is what activation checkpointing computes twice, so
/// that the share of the peak that follows from it is a lower bound.
///   num_tokens: rows of the batch, gists included; num_labels: rows that predict a token
double step_flops(const model::ModelConfig& config, Trained trained, std::int64_t num_tokens,
                  std::int64_t num_labels);

/// Floating-point operations per second that a large square matrix product reaches on a device: the
/// best of a few repetitions, measured anew by every call (a fraction of a second).
double measure_peak_flops(at::Device device, at::ScalarType dtype);

}  // namespace gsa::train
