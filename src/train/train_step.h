#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <span>

#include "train/communicator.h"
#include "train/gradient_buckets.h"
#include "train/loader.h"
#include "train/loss.h"
#include "train/optimizer.h"
#include "train/parameters.h"

namespace gsa::train {

/// What a step computes beside the loss of the labels.
struct StepOptions {
  double distill = 0;       ///< share of the loss of answers that is KL to a teacher, 0 to 1
  double bare_distill = 0;  ///< share of the loss of bare rows, those without suffixes
  /// Who teaches answers and bare rows, under full attention; null: the base.
  std::shared_ptr<const model::Model> teacher = nullptr, bare_teacher = nullptr;
  double plain_view = 0;   ///< weight of the smooth-L1 pull to the plain-causal view (method §4)
  double routing = 0;      ///< weight of attention::RoutingLoss; not with `recompute`
  bool recompute = false;  ///< trade time for memory (see model::ForwardOptions)
};

/// Whole steps of a training: forward, loss, backward, sums over the workers, optimizer. Nothing
/// waits for the device. The references must outlive it.
class TrainStep {
 public:
  TrainStep(TrainedModel& model, Communicator& communicator, const OptimizerOptions& optimizer,
            const StepOptions& options);

  struct Result {
    at::Tensor loss;     // scalar f32: weighted mean over the labels of all workers
    at::Tensor routing;  // scalar f32: of all workers, without its weight and no part of `loss`
    at::Tensor norm;     // scalar f32: of the gradient before clipping
  };

  /// One step over this worker's micro-batches. `label_weight`: of all micro-batches of all
  /// workers, above 0; `step` counts from 0; `lr_factor` is the schedule's. Batches need their
  /// plain views if the options ask for them.
  Result run(std::span<const TrainBatch> batches, double label_weight, std::int64_t step,
             double lr_factor);

  const Optimizer& optimizer() const { return optimizer_; }

 private:
  struct Losses {
    at::Tensor labels, routing;  // scalars; `routing` undefined: nothing selected
  };
  Losses losses_of(const TrainBatch& batch, double scale) const;
  /// What is seen of rows under full attention, beside the loss of their labels.
  struct FullView {
    std::optional<Teacher> teacher;
    at::Tensor plain;  // hidden states of the trained model; undefined: no pull to them

    FullView part(std::int64_t begin, std::int64_t count) const;
  };
  FullView full_view(const std::optional<PackedRows>& rows,
                     const std::shared_ptr<const model::Model>& teacher, double share) const;
  /// Of labels that weigh alike.
  at::Tensor labels_loss(const at::Tensor& hidden, const at::Tensor& labels, const FullView& view,
                         double scale) const;

  TrainedModel& model_;
  Communicator& communicator_;
  StepOptions options_;
  GradientBuckets buckets_;
  Optimizer optimizer_;
};

}  // namespace gsa::train
