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

at::Tensor TrainStep::seen_in_full(const model::Model& model,
                                   const std::optional<PackedRows>& view) const {
  if (!view) core::internal_error("train: rows that no view shows under full attention");
  const at::NoGradGuard no_grad;
  return model.forward(view->batch, {.rows = view->rows});
}

TrainStep::Losses TrainStep::losses_of(const TrainBatch& batch, double scale) const {
  const PackedRows& rows = batch.rows;
  const auto model = model_.model();
  const at::Tensor weight = TrainedModel::output_weight(*model);
  const auto view_of = [&](bool is_bare) -> const std::optional<PackedRows>& {
    return is_bare ? batch.plain_bare : batch.plain_asked;
  };
  // Answers and bare rows: what a teacher and the model itself say of them under full attention.
  struct Other {
    std::optional<Teacher> teacher;
    at::Tensor plain;
  };
  const auto other_of = [&](bool is_bare) {
    Other other;
    const auto& teacher = is_bare ? options_.bare_teacher : options_.teacher;
    const model::Model& from = teacher ? *teacher : *model_.base();
    const double share = is_bare ? options_.bare_distill : options_.distill;
    if (share > 0) {
      other.teacher =
          Teacher{seen_in_full(from, view_of(is_bare)), TrainedModel::output_weight(from), share};
    }
    if (options_.plain_view > 0) other.plain = seen_in_full(*model, view_of(is_bare));
    return other;
  };
  const std::int64_t num_asked = rows.num_asked_labels();
  const Other of_asked = num_asked > 0 ? other_of(false) : Other();
  const Other of_bare = rows.bare_labels.empty() ? Other() : other_of(true);

  attention::RoutingLoss routing;
  const at::Tensor hidden =
      model->forward(rows.batch, {.rows = rows.rows,
                                  .recompute = options_.recompute,
                                  .routing = options_.routing > 0 ? &routing : nullptr});
  at::Tensor loss = at::zeros({}, hidden.options().dtype(at::kFloat));
  std::int64_t begin = 0;
  /// The next labels, and where they are in what others say.
  const auto add = [&](std::int64_t count, double label_weight, const Other& other,
                       std::int64_t other_begin) {
    if (count == 0) return;
    const at::Tensor some = hidden.narrow(0, begin, count);
    std::optional<Teacher> teacher = other.teacher;
    if (teacher) teacher->hidden = teacher->hidden.narrow(0, other_begin, count);
    const double label_scale = scale * label_weight;
    loss = loss.add(token_loss(some, weight, rows.labels.narrow(0, begin, count), label_scale,
                               teacher ? &*teacher : nullptr));
    if (other.plain.defined()) {
      const at::Tensor plain = other.plain.narrow(0, other_begin, count);
      loss = loss.add(at::smooth_l1_loss(some.to(at::kFloat), plain.to(at::kFloat)),
                      options_.plain_view * label_scale * static_cast<double>(count));
    }
    begin += count;
  };
  add(num_asked, 1, of_asked, 0);
  for (const BareLabels& labels : rows.bare_labels)
    add(labels.count, labels.weight, of_bare, begin - num_asked);

  at::Tensor mean = routing.mean();
  // Only questions are routed.
  if (mean.defined()) mean = mean.mul(scale * static_cast<double>(num_asked));
  return {loss, mean};
}

}  // namespace gsa::train
