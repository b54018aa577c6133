#include "train/trainer.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/zeros.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>

#include "core/error.h"
#include "core/log.h"
#include "gsa/error.h"

namespace gsa::train {
namespace {

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

}  // namespace

Trainer::Trainer(TrainedModel& model, const Sampler& sampler, std::vector<Example> validation,
                 TrainOptions options, Communicator& communicator)
    : model_(model),
      sampler_(sampler),
      evaluates_(!validation.empty() && options.eval_every > 0),
      options_(std::move(options)),
      communicator_(communicator),
      step_(model, communicator, options_.optimizer, options_.step),
      checkpoints_(options_.out / "checkpoints", options_.recipe) {
  for (std::size_t i = communicator.rank(); i < validation.size(); i += communicator.size())
    validation_.push_back(std::move(validation[i]));
  options_.rows.rank = communicator.rank();
  options_.rows.num_workers = communicator.size();
  options_.rows.plain_view = options_.step.distill > 0 || options_.step.plain_view > 0
                                 ? RowPlan::PlainView::all_rows
                             : options_.step.bare_distill > 0 ? RowPlan::PlainView::bare_rows
                                                              : RowPlan::PlainView::none;
  options_.rows.check();
}

NamedTensors Trainer::tensors() const {
  NamedTensors all;
  for (const Parameter& parameter : model_.parameters())
    all.emplace_back("parameter." + parameter.name, parameter.tensor.detach());
  const NamedTensors moments = step_.optimizer().state();
  all.insert(all.end(), moments.begin(), moments.end());
  return all;
}

bool Trainer::resume() {
  std::optional<RunState> found;
  if (communicator_.rank() == 0) found = checkpoints_.restore(tensors());
  if (communicator_.size() > 1) {  // another machine need not see the folder
    at::Tensor shared = at::zeros({6}, at::TensorOptions(at::kDouble));
    if (found) {
      const std::array<double, 6> values = {1,
                                            static_cast<double>(found->step),
                                            static_cast<double>(found->num_tokens),
                                            static_cast<double>(found->num_raw),
                                            found->seconds,
                                            found->mean_loss};
      std::copy(values.begin(), values.end(), shared.data_ptr<double>());
    }
    shared = shared.to(communicator_.device());
    communicator_.broadcast(shared, 0);
    shared = shared.cpu();
    const double* values = shared.data_ptr<double>();
    if (values[0] == 0) return false;
    const auto step = static_cast<std::int64_t>(values[1]);
    found = RunState{.step = step,
                     .next_row = step * options_.rows.rows_per_step,
                     .num_tokens = static_cast<std::int64_t>(values[2]),
                     .num_raw = static_cast<std::int64_t>(values[3]),
                     .seconds = values[4],
                     .mean_loss = values[5]};
    for (auto& [name, tensor] : tensors()) {
      at::Tensor same = tensor;
      communicator_.broadcast(same, 0);
    }
  }
  if (!found) return false;
  state_ = *found;
  return true;
}

Outcome Trainer::run(const std::stop_token& stop, const Report& report,
                     const EvalReport& eval_report) {
  if (communicator_.rank() == 0) {
    std::error_code error;
    std::filesystem::create_directories(options_.out, error);
    if (error) core::resource_error("train: {}: {}", options_.out.string(), error.message());
    log_.emplace(options_.out / "log.jsonl", state_.step);
  }
  begin_ = now() - state_.seconds;
  last_save_ = last_step_ = state_.seconds;
  const std::int64_t num_steps = options_.schedule.num_steps;
  Loader loader(sampler_, model_.base()->tokenizer().word_starts(), options_.rows,
                model_.base()->device(), state_.step, num_steps, options_.num_loader_threads);
  if (state_.step == 0) evaluate(eval_report);
  bool must_stop = false;
  while (state_.step < num_steps && !must_stop) {
    must_stop = step(loader, stop.stop_requested());  // the workers have to agree
    // One step behind, so that the host prepares a step while the device computes the one before.
    const std::size_t num_behind = model_.base()->device().is_cpu() ? 0 : 1;
    while (pending_.size() > num_behind) settle(report);
    if (options_.eval_every > 0 && state_.step % options_.eval_every == 0) {
      while (!pending_.empty()) settle(report);
      evaluate(eval_report);
    }
    read_clock();
    if ((state_.seconds - last_save_) / 60 >= options_.save_minutes) {
      while (!pending_.empty()) settle(report);
      try_to_save();
    }
    must_stop = must_stop || (communicator_.size() == 1 && stop.stop_requested());
  }
  while (!pending_.empty()) settle(report);
  read_clock();
  if (state_.step < num_steps) {
    save();
    communicator_.barrier();  // launchers end all processes when one leaves
    return Outcome::interrupted;
  }
  try_to_save();
  evaluate(eval_report);
  return Outcome::finished;
}

bool Trainer::step(Loader& loader, bool wants_stop) {
  std::vector<TrainBatch> batches;
  // labels, tokens, raw tokens, processes that stop, weight of the labels
  std::array<double, 5> sums = {0, 0, 0, wants_stop ? 1.0 : 0.0, 0};
  for (std::int64_t i = 0; i < options_.rows.num_micro_batches; ++i) {
    const PackedRows& rows = batches.emplace_back(loader.next()).rows;
    sums[0] += static_cast<double>(rows.num_labels());
    sums[1] += static_cast<double>(rows.num_tokens());
    sums[2] += static_cast<double>(rows.num_raw);
    sums[4] += rows.label_weight();
  }
  communicator_.sum(sums);
  if (sums[0] == 0) {
    core::input_error("train: step {}: its rows (from {} on) have nothing to predict",
                      state_.step + 1, state_.next_row);
  }
  const double factor = options_.schedule.factor(state_.step);
  const TrainStep::Result result = step_.run(batches, sums[4], state_.step, factor);
  state_.step += 1;
  state_.next_row = state_.step * options_.rows.rows_per_step;
  state_.num_tokens += static_cast<std::int64_t>(sums[1]);
  state_.num_raw += static_cast<std::int64_t>(sums[2]);
  StepRecord record;
  record.step = state_.step;
  record.lr = factor * options_.optimizer.lr;
  record.step_tokens = static_cast<std::int64_t>(sums[1]);
  record.num_tokens = state_.num_tokens;
  record.num_raw = state_.num_raw;
  record.num_labels = static_cast<std::int64_t>(sums[0]);
  keep_for_later(result, record);
  return sums[3] > 0;
}

void Trainer::keep_for_later(const TrainStep::Result& result, StepRecord record) {
  // The clock is read where the step was handed to the device, at the same point of every step: the
  // wait for its result falls into the next one.
  read_clock();
  record.seconds = state_.seconds;
  record.tokens_per_second =
      static_cast<double>(record.step_tokens) / std::max(1e-9, record.seconds - last_step_);
  last_step_ = record.seconds;
  Pending pending;
  pending.record = record;
  pending.first_row = state_.next_row - options_.rows.rows_per_step;
  const at::Tensor values = at::stack({result.loss, result.norm, result.routing});
  const at::Device device = values.device();
  pending.values =
      at::empty(values.sizes(), at::TensorOptions(at::kFloat).pinned_memory(device.is_cuda()));
  pending.values.copy_(values, /*non_blocking=*/true);
  if (device.is_cuda()) {
    pending.is_there.emplace(device.type());
    pending.is_there->record(c10::impl::VirtualGuardImpl(device.type()).getStream(device));
  }
  pending_.push_back(std::move(pending));
}

void Trainer::settle(const Report& report) {
  Pending pending = std::move(pending_.front());
  pending_.erase(pending_.begin());
  if (pending.is_there) pending.is_there->synchronize();
  StepRecord& record = pending.record;
  record.loss = pending.values.data_ptr<float>()[0];
  record.grad_norm = pending.values.data_ptr<float>()[1];
  if (options_.step.routing > 0) record.routing = pending.values.data_ptr<float>()[2];
  const bool is_finite = std::isfinite(record.loss) && std::isfinite(record.grad_norm);
  const bool is_spike = state_.mean_loss > 0 && record.loss > state_.mean_loss + options_.max_spike;
  if (!is_finite || is_spike) {
    core::resource_error(
        "train: step {}: loss {:.4g} after a mean of {:.4g}, gradient norm {:.4g} (rows {} to {}); "
        "lower the learning rate, or look at these rows",
        record.step, record.loss, state_.mean_loss, record.grad_norm, pending.first_row,
        pending.first_row + options_.rows.rows_per_step - 1);
  }
  state_.mean_loss =
      state_.mean_loss == 0 ? record.loss : 0.9 * state_.mean_loss + 0.1 * record.loss;
  if (log_) log_->add(record);
  if (report) report(record);
}

void Trainer::read_clock() { state_.seconds = now() - begin_; }

void Trainer::evaluate(const EvalReport& report) {
  if (!evaluates_ || scored_step_ == state_.step) return;
  const double begin = now();
  const at::NoGradGuard no_grad;
  const auto model = model_.model();
  scores_.clear();
  for (const attention::PolicySpec& policy : options_.eval_policies) {
    const LabelLoss loss = label_loss(*model, validation_, policy, options_.eval);
    std::array<double, 2> sums = {loss.sum, static_cast<double>(loss.num_labels)};
    communicator_.sum(sums);
    const LabelLoss all{sums[0], static_cast<std::int64_t>(sums[1])};
    scores_.emplace_back(row_policy_name(policy, options_.policy_keys), all.mean());
  }
  scored_step_ = state_.step;
  begin_ += now() - begin;  // no part of the time spent training
  if (log_) log_->add(state_.step, scores_);
  if (report) report(state_.step, scores_);
}

void Trainer::save() {
  if (communicator_.rank() == 0) checkpoints_.save(state_, tensors());
  last_save_ = state_.seconds;
}

void Trainer::try_to_save() {
  try {
    save();
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::resource) throw;
    core::log_warning(fmt::format("no checkpoint at step {}: {}", state_.step, error.what()));
    last_save_ = state_.seconds;  // the run is worth more than one checkpoint; the next may succeed
  }
}

}  // namespace gsa::train
