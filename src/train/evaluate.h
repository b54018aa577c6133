#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "attention/policy.h"
#include "model/model.h"
#include "train/example.h"

namespace gsa::train {

struct EvalOptions {
  std::int64_t max_labels = 1024;  ///< of an example without suffixes: the last so many; 0: all
  std::int64_t rows_per_batch = 4;
};

/// Loss over labels: its sum in nats, and how many labels it is the sum of.
struct LabelLoss {
  double sum = 0;
  std::int64_t num_labels = 0;

  /// Input error if there is no label.
  double mean() const;
};

/// Loss of fixed examples read under a policy. Without gradients.
LabelLoss label_loss(const model::Model& model, std::span<const Example> examples,
                     const attention::PolicySpec& policy, const EvalOptions& options = {});

}  // namespace gsa::train
