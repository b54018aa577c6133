#include "train/train_step.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/smooth_l1_loss.h>
#include <ATen/ops/zeros.h>

#include <optional>
#include <vector>

#include "attention/routing_loss.h"
#include "core/error.h"
#include "train/loss.h"

namespace gsa::train {
namespace {

std::vector<at::Tensor> tensors_of(const std::vector<Parameter>& parameters) {
  std::vector<at::Tensor> tensors;
  for (const Parameter& parameter : parameters) tensors.push_back(parameter.tensor);
  return tensors;
}

}  // namespace

TrainStep::TrainStep(TrainedModel& model, Communicator& communicator,
                     const OptimizerOptions& optimizer, const StepOptions& options)
    : model_(model),
      communicator_(communicator),
      options_(options),
      buckets_(tensors_of(model.parameters()), communicator),
      optimizer_(model.parameters(), optimizer) {}

TrainStep::Result TrainStep::run(std::span<const TrainBatch> batches, double num_labels,
                                 std::int64_t step, double lr_factor) {
  buckets_.zero();
  at::Tensor sums = at::zeros({2}, at::TensorOptions(at::kFloat).device(model_.base()->device()));
  at::Tensor loss = sums[0], routing_loss = sums[1];
  for (const TrainBatch& batch : batches) {
    if (&batch == &batches.back()) buckets_.expect_last_backward();
    if (batch.rows.num_labels() == 0) continue;
    const auto [labels, routing] = losses_of(batch, 1 / num_labels);
    at::Tensor total = labels;
    if (routing.defined()) {
      total = total.add(routing, options_.routing);
      routing_loss.add_(routing.detach());
    }
    if (total.requires_grad()) total.backward();  // not if only gists train and the rows have none
    loss.add_(labels.detach());
  }
  buckets_.finish();
  if (communicator_.size() > 1) {
    communicator_.all_reduce(sums);
    communicator_.wait();
  }
  return {loss, routing_loss, optimizer_.step(step, lr_factor)};
}

at::Tensor TrainStep::teacher_hidden(const TrainBatch& batch) const {
  const bool teaches_bare = options_.bare_distill > 0 && batch.rows.num_bare_labels > 0;
  if (options_.distill == 0 && !teaches_bare) return {};
  if (!batch.plain) core::internal_error("train: rows to distil without a view for the teacher");
  const at::NoGradGuard no_grad;
  return teacher().forward(batch.plain->batch, {.rows = batch.plain->rows});
}

at::Tensor TrainStep::labels_loss(const at::Tensor& hidden, const at::Tensor& weight,
                                  const PackedRows& rows, const at::Tensor& teacher_hidden,
                                  double scale) const {
  const std::int64_t num_asked = rows.num_labels() - rows.num_bare_labels;
  at::Tensor total;
  const auto add = [&](std::int64_t begin, std::int64_t count, double share) {
    if (count == 0) return;
    std::optional<Teacher> teacher;
    if (share > 0) {
      const std::int64_t first = begin + teacher_hidden.size(0) - rows.num_labels();
      if (first < 0) core::internal_error("train: the teacher did not see all rows to distil");
      teacher = Teacher{teacher_hidden.narrow(0, first, count),
                        TrainedModel::output_weight(this->teacher()), share};
    }
    const at::Tensor loss =
        token_loss(hidden.narrow(0, begin, count), weight, rows.labels.narrow(0, begin, count),
                   scale, teacher ? &*teacher : nullptr);
    total = total.defined() ? total.add(loss) : loss;
  };
  add(0, num_asked, options_.distill);
  add(num_asked, rows.num_bare_labels, options_.bare_distill);
  return total;
}

TrainStep::Losses TrainStep::losses_of(const TrainBatch& batch, double scale) const {
  const PackedRows& rows = batch.rows;
  const auto model = model_.model();
  const at::Tensor weight = TrainedModel::output_weight(*model);
  const at::Tensor theirs = teacher_hidden(batch);
  at::Tensor plain;
  if (options_.plain_view > 0) {
    const at::NoGradGuard no_grad;
    plain = model->forward(batch.plain->batch, {.rows = batch.plain->rows});
  }
  attention::RoutingLoss routing;
  const at::Tensor hidden =
      model->forward(rows.batch, {.rows = rows.rows,
                                  .recompute = options_.recompute,
                                  .routing = options_.routing > 0 ? &routing : nullptr});
  const auto share = [&](std::int64_t num_labels) {  // of the step's labels
    return scale * static_cast<double>(num_labels);
  };
  at::Tensor loss = labels_loss(hidden, weight, rows, theirs, scale);
  if (plain.defined()) {
    const at::Tensor pull = at::smooth_l1_loss(hidden.to(at::kFloat), plain.to(at::kFloat));
    loss = loss.add(pull, options_.plain_view * share(rows.num_labels()));
  }
  at::Tensor mean = routing.mean();
  // Only questions are routed.
  if (mean.defined()) mean = mean.mul(share(rows.num_labels() - rows.num_bare_labels));
  return {loss, mean};
}

}  // namespace gsa::train
