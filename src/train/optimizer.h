#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "train/parameters.h"

namespace gsa::train {

struct OptimizerOptions {
  double lr = 4e-3;           ///< peak of the schedule
  double gist_lr = 5e-3;      ///< the same for gist embeddings
  double weight_decay = 0.1;  ///< of matrices; gists, norms and biases do not decay
  double beta1 = 0.9, beta2 = 0.95;
  double epsilon = 1e-8;
  double max_norm = 1;  ///< gradients are scaled down to this norm, over all parameters
};

/// AdamW (Loshchilov and Hutter 2019) in LibTorch's fused form. Nothing waits for the device.
class Optimizer {
 public:
  Optimizer(const std::vector<Parameter>& parameters, const OptimizerOptions& options);

  /// Applies the gradients that the parameters hold. `step` counts from 0; `lr_factor` is the
  /// schedule's. Returns the norm of all gradients before clipping, a scalar f32; if it is not
  /// finite, nothing is changed.
  at::Tensor step(std::int64_t step, double lr_factor);

  /// Every moment under a name, in a fixed order: to save them and to restore them in place.
  std::vector<std::pair<std::string, at::Tensor>> state() const;

 private:
  struct Group {
    double lr = 0, weight_decay = 0;
    std::vector<std::string> names;
    std::vector<at::Tensor> tensors, first_moments, second_moments;
  };

  OptimizerOptions options_;
  std::vector<Group> groups_;
  at::Tensor step_;  // scalar f32 on the device, as the fused operation takes it
};

}  // namespace gsa::train
