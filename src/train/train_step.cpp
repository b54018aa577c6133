#include "train/train_step.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/smooth_l1_loss.h>
#include <ATen/ops/zeros.h>

#include <optional>
#include <vector>

#include "attention/routing_loss.h"
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

at::Tensor TrainStep::taught(const TrainBatch& batch) const {
  if (!batch.plain || (options_.distill == 0 && options_.text_distill == 0)) return {};
  const at::NoGradGuard no_grad;
  return teacher().forward(batch.plain->batch, {.rows = batch.plain->rows});
}

at::Tensor TrainStep::labels_loss(const at::Tensor& hidden, const at::Tensor& weight,
                                  const PackedRows& rows, const at::Tensor& taught,
                                  double scale) const {
  const std::int64_t num_asked = rows.num_labels() - rows.num_text_labels;
  at::Tensor total;
  const auto add = [&](std::int64_t begin, std::int64_t count, double share) {
    if (count == 0) return;
    std::optional<Teacher> teacher;
    if (share > 0) {
      const std::int64_t first = begin - rows.num_labels() + taught.size(0);
      teacher = Teacher{taught.narrow(0, first, count),
                        TrainedModel::output_weight(this->teacher()), share};
    }
    const at::Tensor loss =
        token_loss(hidden.narrow(0, begin, count), weight, rows.labels.narrow(0, begin, count),
                   scale, teacher ? &*teacher : nullptr);
    total = total.defined() ? total.add(loss) : loss;
  };
  add(0, num_asked, options_.distill);
  add(num_asked, rows.num_text_labels, options_.text_distill);
  return total;
}

TrainStep::Losses TrainStep::losses_of(const TrainBatch& batch, double scale) const {
  const auto model = model_.model();
  const at::Tensor weight = TrainedModel::output_weight(*model);
  const at::Tensor theirs = taught(batch);
  at::Tensor plain;
  if (options_.plain_view > 0) {
    const at::NoGradGuard no_grad;
    plain = model->forward(batch.plain->batch, {.rows = batch.plain->rows});
  }
  attention::RoutingLoss routing;
  const at::Tensor hidden =
      model->forward(batch.rows.batch, {.rows = batch.rows.rows,
                                        .recompute = options_.recompute,
                                        .routing = options_.routing > 0 ? &routing : nullptr});
  const double share = scale * static_cast<double>(hidden.size(0));  // of the step's labels
  at::Tensor loss = labels_loss(hidden, weight, batch.rows, theirs, scale);
  if (plain.defined()) {
    const at::Tensor pull = at::smooth_l1_loss(hidden.to(at::kFloat), plain.to(at::kFloat));
    loss = loss.add(pull, options_.plain_view * share);
  }
  at::Tensor mean = routing.mean();
  if (mean.defined()) mean = mean.mul(share);
  return {loss, mean};
}

}  // namespace gsa::train
