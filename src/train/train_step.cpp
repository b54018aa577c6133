#include "train/train_step.h"

#include <ATen/core/grad_mode.h>
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

TrainStep::FullView TrainStep::full_view(const std::optional<PackedRows>& rows,
                                         const std::shared_ptr<const model::Model>& teacher,
                                         double share) const {
  FullView view;
  if (share == 0 && options_.plain_view == 0) return view;
  if (!rows) core::internal_error("train: rows that no view shows under full attention");
  const at::NoGradGuard no_grad;
  const auto seen_by = [&](const model::Model& model) {
    return model.forward(rows->batch, {.rows = rows->rows});
  };
  if (share > 0) {
    const model::Model& from = teacher ? *teacher : *model_.base();
    view.teacher = Teacher{seen_by(from), TrainedModel::output_weight(from), share};
  }
  if (options_.plain_view > 0) view.plain = seen_by(*model_.model());
  return view;
}

at::Tensor TrainStep::labels_loss(const at::Tensor& hidden, const at::Tensor& labels,
                                  const FullView& view, double scale) const {
  const at::Tensor weight = TrainedModel::output_weight(*model_.model());
  const at::Tensor loss =
      token_loss(hidden, weight, labels, scale, view.teacher ? &*view.teacher : nullptr);
  if (!view.plain.defined()) return loss;
  const at::Tensor pull = at::smooth_l1_loss(hidden.to(at::kFloat), view.plain.to(at::kFloat));
  return loss.add(pull, options_.plain_view * scale * static_cast<double>(labels.size(0)));
}

TrainStep::Losses TrainStep::losses_of(const TrainBatch& batch, double scale) const {
  const PackedRows& rows = batch.rows;
  const std::int64_t num_asked = rows.num_asked_labels();
  FullView asked, bare;
  if (num_asked > 0) asked = full_view(batch.plain_asked, options_.teacher, options_.distill);
  if (!rows.bare_labels.empty())
    bare = full_view(batch.plain_bare, options_.bare_teacher, options_.bare_distill);

  attention::RoutingLoss routing;
  const at::Tensor hidden =
      model_.model()->forward(rows.batch, {.rows = rows.rows,
                                           .recompute = options_.recompute,
                                           .routing = options_.routing > 0 ? &routing : nullptr});
  const auto loss_of = [&](std::int64_t begin, std::int64_t count, const FullView& view,
                           double weight) {
    return labels_loss(hidden.narrow(0, begin, count), rows.labels.narrow(0, begin, count), view,
                       scale * weight);
  };
  at::Tensor loss = at::zeros({}, hidden.options().dtype(at::kFloat));
  if (num_asked > 0) loss = loss.add(loss_of(0, num_asked, asked, 1));
  std::int64_t begin = num_asked;
  for (const auto& [count, weight] : rows.bare_labels) {
    loss = loss.add(loss_of(begin, count, bare.part(begin - num_asked, count), weight));
    begin += count;
  }
  at::Tensor mean = routing.mean();
  // Only questions are routed.
  if (mean.defined()) mean = mean.mul(scale * static_cast<double>(num_asked));
  return {loss, mean};
}

TrainStep::FullView TrainStep::FullView::part(std::int64_t begin, std::int64_t count) const {
  FullView some = *this;
  if (some.teacher) some.teacher->hidden = teacher->hidden.narrow(0, begin, count);
  if (some.plain.defined()) some.plain = plain.narrow(0, begin, count);
  return some;
}

}  // namespace gsa::train
