#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Event.h>

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <stop_token>
#include <string>
#include <vector>

#include "train/checkpoint.h"
#include "train/communicator.h"
#include "train/evaluate.h"
#include "train/loader.h"
#include "train/optimizer.h"
#include "train/parameters.h"
#include "train/sampler.h"
#include "train/schedule.h"
#include "train/train_log.h"
#include "train/train_step.h"

namespace gsa::train {

/// How a run goes. Losses are in nats per label.
struct TrainOptions {
  std::filesystem::path out;  ///< folder of the log and the checkpoints
  Schedule schedule;
  RowPlan rows;  ///< rank and number of workers come from the communicator
  OptimizerOptions optimizer;
  StepOptions step;
  double max_spike = 3;         ///< stop if a loss is so far above the running mean
  double save_minutes = 5;      ///< between checkpoints; 0: one after every step
  std::int64_t eval_every = 0;  ///< steps; 0: never
  std::vector<attention::PolicySpec> eval_policies;
  std::string policy_keys;  ///< that all policies have, left out of the names of scores
  EvalOptions eval;
  int num_loader_threads = 2;
  std::string recipe;  ///< of this run, for its checkpoints
};

enum class Outcome { finished, interrupted };

/// Runs the steps of a training. Every worker of a data-parallel run has one and calls the same
/// functions; worker 0 writes.
class Trainer {
 public:
  using Report = std::function<void(const StepRecord&)>;
  using EvalReport = std::function<void(std::int64_t step, const Scores&)>;

  /// The references must outlive it. `validation` may be empty; the workers share its evaluation.
  Trainer(TrainedModel& model, const Sampler& sampler, std::vector<Example> validation,
          TrainOptions options, Communicator& communicator);

  /// Takes up the newest whole checkpoint in the folder. False if there is none.
  bool resume();

  /// Trains to the end of the schedule, or until a stop is requested: then it saves a checkpoint
  /// first. `report` hears of every step, `eval_report` of every evaluation (before the first step,
  /// every `eval_every` steps, after the last). Resource error that names the step and its rows if
  /// the loss or the gradient is not finite, or jumps, or if a stopped run cannot be saved.
  Outcome run(const std::stop_token& stop, const Report& report, const EvalReport& eval_report);

  const RunState& state() const { return state_; }
  /// Of the last evaluation; empty without one.
  const Scores& scores() const { return scores_; }

 private:
  /// What a step left on the device for the host to look at later.
  struct Pending {
    StepRecord record;
    std::int64_t first_row = 0;
    at::Tensor values;  // [3] f32 on the CPU: loss, norm of the gradient, routing
    std::optional<c10::Event> is_there;
  };

  bool step(Loader& loader, bool wants_stop);
  void keep_for_later(const TrainStep::Result& result, StepRecord record);
  void settle(const Report& report);
  void read_clock();
  void evaluate(const EvalReport& report);
  void save();
  void try_to_save();
  NamedTensors tensors() const;

  TrainedModel& model_;
  const Sampler& sampler_;
  bool evaluates_;
  std::vector<Example> validation_;  // this worker's share
  TrainOptions options_;
  Communicator& communicator_;
  TrainStep step_;
  Checkpoints checkpoints_;
  RunState state_;
  Scores scores_;
  std::int64_t scored_step_ = -1;  // of `scores_`
  double begin_ = 0;               // when the run would have begun had it never paused
  std::optional<TrainLog> log_;
  std::vector<Pending> pending_;          // at most two
  double last_save_ = 0, last_step_ = 0;  // in seconds of the run
};

}  // namespace gsa::train
