#include "train/train_step.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/smooth_l1_loss.h>
#include <ATen/ops/zeros.h>

#include <vector>

#include "attention/routing_loss.h"
#include "core/error.h"

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

TrainStep::Result TrainStep::run(std::span<const TrainBatch> batches, double label_weight,
                                 std::int64_t step, double lr_factor) {
  buckets_.zero();
  at::Tensor sums = at::zeros({2}, at::TensorOptions(at::kFloat).device(model_.base()->device()));
  at::Tensor loss = sums[0], routing_loss = sums[1];
  for (const TrainBatch& batch : batches) {
    if (&batch == &batches.back()) buckets_.expect_last_backward();
    if (batch.rows.num_labels() == 0) continue;
    const auto [labels, routing] = losses_of(batch, 1 / label_weight);
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

std::optional<Teacher> TrainStep::taught(const std::shared_ptr<const model::Model>& teacher,
                                         const std::optional<PackedRows>& view,
                                         double share) const {
  if (share == 0) return std::nullopt;
  if (!view) core::internal_error("train: rows to distil without a view for the teacher");
  const at::NoGradGuard no_grad;
  const model::Model& of = teacher ? *teacher : *model_.base();
  return Teacher{of.forward(view->batch, {.rows = view->rows}), TrainedModel::output_weight(of),
                 share};
}

at::Tensor TrainStep::plain_hidden(const TrainBatch& batch) const {
  const at::NoGradGuard no_grad;
  std::vector<at::Tensor> parts;
  for (const auto* view : {&batch.plain_asked, &batch.plain_bare})
    if (*view) parts.push_back(model_.model()->forward((*view)->batch, {.rows = (*view)->rows}));
  return at::cat(parts);
}

TrainStep::Losses TrainStep::losses_of(const TrainBatch& batch, double scale) const {
  const PackedRows& rows = batch.rows;
  const std::int64_t num_asked = rows.num_asked_labels(), num_bare = rows.num_bare_labels;
  const auto model = model_.model();
  const at::Tensor weight = TrainedModel::output_weight(*model);
  std::optional<Teacher> teacher, bare_teacher;
  if (num_asked > 0) teacher = taught(options_.teacher, batch.plain_asked, options_.distill);
  if (num_bare > 0)
    bare_teacher = taught(options_.bare_teacher, batch.plain_bare, options_.bare_distill);
  at::Tensor plain;
  if (options_.plain_view > 0) plain = plain_hidden(batch);
  attention::RoutingLoss routing;
  const at::Tensor hidden =
      model->forward(rows.batch, {.rows = rows.rows,
                                  .recompute = options_.recompute,
                                  .routing = options_.routing > 0 ? &routing : nullptr});
  at::Tensor loss = at::zeros({}, hidden.options().dtype(at::kFloat));
  const auto add = [&](std::int64_t begin, std::int64_t count, double label_scale,
                       const std::optional<Teacher>& from) {
    if (count == 0) return;
    loss = loss.add(token_loss(hidden.narrow(0, begin, count), weight,
                               rows.labels.narrow(0, begin, count), label_scale,
                               from ? &*from : nullptr));
  };
  add(0, num_asked, scale, teacher);
  add(num_asked, num_bare, scale * rows.bare_label_weight, bare_teacher);
  if (plain.defined()) {
    const at::Tensor pull = at::smooth_l1_loss(hidden.to(at::kFloat), plain.to(at::kFloat));
    loss = loss.add(pull, options_.plain_view * scale * rows.label_weight());
  }
  at::Tensor mean = routing.mean();
  // Only questions are routed.
  if (mean.defined()) mean = mean.mul(scale * static_cast<double>(num_asked));
  return {loss, mean};
}

}  // namespace gsa::train
