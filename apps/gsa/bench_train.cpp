#include "bench_train.h"

#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <c10/core/Event.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <c10/util/Exception.h>
#include <fmt/format.h>

#include <chrono>
#include <memory>
#include <new>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

#include "core/error.h"
#include "core/rng.h"
#include "interrupt.h"
#include "peak_memory.h"
#include "progress.h"
#include "samples.h"
#include "table.h"
#include "terminal.h"
#include "train/communicator.h"
#include "train/flops.h"
#include "train/rows.h"
#include "train/train_step.h"

namespace gsa::apps {
namespace {

using Json = nlohmann::ordered_json;

constexpr int num_warmup_steps = 2;
constexpr double lr = 1e-5;  // random tokens teach nothing; the weights stay near what they are

/// Steps of one policy at one length.
struct StepTimes {
  std::string policy;
  std::int64_t context = 0, rows = 0;
  bool is_out_of_memory = false;
  Samples ms_per_step;                           // none if out of memory
  double tokens = 0, raw_tokens = 0, flops = 0;  // of all timed steps
  std::int64_t peak_memory_bytes = 0;

  double per_second(double amount) const {
    const double steps = static_cast<double>(ms_per_step.values.size());
    return amount / steps / (ms_per_step.median() / 1000);
  }
};

/// Whether this is a failure to allocate, on the host or on a device.
bool is_out_of_memory(const std::exception& error) {
  if (dynamic_cast<const std::bad_alloc*>(&error) != nullptr ||
      dynamic_cast<const c10::OutOfMemoryError*>(&error) != nullptr) {
    return true;
  }
  const std::string_view text = error.what();
  for (const char* sign : {"can't allocate memory", "out of memory", "CUBLAS_STATUS_ALLOC_FAILED"})
    if (text.find(sign) != std::string_view::npos) return true;
  return false;
}

/// Points in the work of a device. The host runs one step ahead of a GPU, as it does in a training.
class Laps {
 public:
  explicit Laps(at::Device device) : device_(device) {}

  void mark() {
    if (device_.is_cpu()) {
      times_.push_back(Clock::now());
      return;
    }
    events_.emplace_back(device_.type(), c10::EventFlag::BACKEND_DEFAULT);  // with time stamps
    events_.back().record(c10::impl::VirtualGuardImpl(device_.type()).getStream(device_));
    if (events_.size() > 1) events_[events_.size() - 2].synchronize();
  }

  /// Milliseconds between marks that follow each other; waits for the device.
  std::vector<double> milliseconds() const {
    std::vector<double> laps;
    for (std::size_t i = 1; i < times_.size(); ++i) {
      laps.push_back(std::chrono::duration<double, std::milli>(times_[i] - times_[i - 1]).count());
    }
    if (!events_.empty()) events_.back().synchronize();
    for (std::size_t i = 1; i < events_.size(); ++i)
      laps.push_back(events_[i - 1].elapsedTime(events_[i]));
    return laps;
  }

 private:
  using Clock = std::chrono::steady_clock;
  at::Device device_;
  std::vector<Clock::time_point> times_;
  std::vector<c10::Event> events_;
};

class BenchTrain {
 public:
  BenchTrain(const BenchTrainArgs& args, std::shared_ptr<const model::Model> base,
             const Interrupt::Work& work)
      : args_(args),
        base_(std::move(base)),
        work_(work),
        communicator_(train::Communicator::from_environment(base_->device())),
        progress_(!args.is_quiet) {}

  std::vector<StepTimes> run(const std::vector<std::int64_t>& contexts) {
    std::vector<StepTimes> results;
    for (const std::int64_t context : contexts)
      for (const attention::PolicySpec& policy : args_.policies)
        results.push_back(measure(policy, context));
    progress_.end();
    return results;
  }

 private:
  StepTimes measure(const attention::PolicySpec& policy, std::int64_t context) {
    StepTimes result;
    result.policy = policy.to_string();
    result.context = context;
    result.rows = std::max<std::int64_t>(1, args_.batch_tokens / context);
    progress_.begin(fmt::format("train {}, {} tokens", result.policy, context), "steps");
    const PeakMemory peak(base_->device());
    try {
      time_steps(policy, result);
    } catch (const std::exception& error) {
      if (!is_out_of_memory(error)) throw;
      result.is_out_of_memory = true;
      return result;
    }
    result.peak_memory_bytes = peak.bytes();
    return result;
  }

  void time_steps(const attention::PolicySpec& policy, StepTimes& result) {
    train::TrainedModel model(base_, args_.parameters);
    train::TrainStep step(model, *communicator_, {.lr = lr, .gist_lr = lr},
                          {.recompute = args_.recomputes});
    const int num_steps = num_warmup_steps + args_.num_reps;
    std::vector<train::TrainBatch> batches;  // a training prepares them in other threads
    for (int i = 0; i < num_steps; ++i)
      batches.push_back(make_batch(policy, result.context, result.rows, i));
    Laps laps(base_->device());
    for (int i = 0; i < num_steps; ++i) {
      work_.check();
      const train::PackedRows& rows = batches[i].rows;
      if (i == num_warmup_steps) laps.mark();
      step.run({&batches[i], 1}, rows.label_weight(), i, 1);
      progress_.update(i + 1, num_steps);
      if (i < num_warmup_steps) continue;
      laps.mark();
      result.tokens += static_cast<double>(rows.num_tokens());
      result.raw_tokens += static_cast<double>(rows.num_raw);
      result.flops += train::step_flops(base_->config(), args_.parameters.trained,
                                        rows.num_tokens(), rows.num_labels());
    }
    result.ms_per_step.values = laps.milliseconds();
  }

  train::TrainBatch make_batch(const attention::PolicySpec& policy, std::int64_t context,
                               std::int64_t num_rows, int step) const {
    const auto vocab = static_cast<std::uint32_t>(base_->tokenizer().vocab_size());
    core::Rng rng(args_.parameters.seed, static_cast<std::uint64_t>(step));  // alike for all
    std::vector<train::Example> examples;
    for (std::int64_t row = 0; row < num_rows; ++row) {
      std::vector<std::int32_t> tokens(static_cast<std::size_t>(context));
      for (std::int32_t& token : tokens) token = static_cast<std::int32_t>(rng.below(vocab));
      examples.push_back({{std::move(tokens)}, {}});
    }
    const std::vector<attention::PolicySpec> policies(examples.size(), policy);
    train::TrainBatch batch{train::pack_rows(examples, policies, base_->tokenizer().word_starts())};
    batch.to(base_->device());
    return batch;
  }

  const BenchTrainArgs& args_;
  std::shared_ptr<const model::Model> base_;
  const Interrupt::Work& work_;
  std::unique_ptr<train::Communicator> communicator_;
  ProgressBar progress_;
};

/// One token predicts nothing.
void check_contexts(const std::vector<std::int64_t>& contexts) {
  for (const std::int64_t context : contexts) {
    if (context < 2)
      core::input_error("bench train: a row of {} token predicts nothing; give --context 2 or more",
                        context);
  }
}

void check_policies(const std::vector<attention::PolicySpec>& policies) {
  for (const attention::PolicySpec& policy : policies) {
    if (policy.adapter) {
      core::input_error("bench train: policy {} names an adapter, steps start from new weights",
                        policy.to_string());
    }
    if (policy.name != "full" && policy.name != "gsa") {
      core::input_error("bench train: there are no training rows under {}; give full or gsa@CHUNKS",
                        policy.to_string());
    }
  }
}

Json to_json(const StepTimes& result, double peak_flops) {
  Json row = {{"policy", result.policy}, {"context", result.context}, {"rows", result.rows}};
  if (result.is_out_of_memory) {
    row["error"] = "out of memory";
    return row;
  }
  row["ms_per_step"] = result.ms_per_step.median();
  row["ms_per_step_min"] = result.ms_per_step.min();
  row["ms_per_step_max"] = result.ms_per_step.max();
  row["tokens_per_second"] = result.per_second(result.tokens);
  row["raw_tokens_per_second"] = result.per_second(result.raw_tokens);
  row["share_of_peak"] = result.per_second(result.flops) / peak_flops;
  row["peak_memory_bytes"] = result.peak_memory_bytes;
  row["reps"] = result.ms_per_step.values.size();
  return row;
}

std::string to_table(const std::vector<StepTimes>& results, double peak_flops) {
  using enum Table::Align;
  Table table({{"policy", left},
               {"context", right},
               {"rows", right},
               {"ms/step", right},
               {"min", right},
               {"max", right},
               {"tokens/s", right},
               {"raw tokens/s", right},
               {"of peak", right},
               {"memory", right}});
  for (const StepTimes& result : results) {
    std::vector<std::string> cells = {result.policy, format_count(result.context),
                                      format_count(result.rows)};
    if (result.is_out_of_memory) {
      cells.insert(cells.end(), {"-", "-", "-", "-", "-", "-", "out of memory"});
    } else {
      const Samples& ms = result.ms_per_step;
      for (const double value : {ms.median(), ms.min(), ms.max()})
        cells.push_back(fmt::format("{:.1f}", value));
      for (const double tokens : {result.tokens, result.raw_tokens})
        cells.push_back(fmt::format("{:.0f}", result.per_second(tokens)));
      cells.push_back(format_percent(result.per_second(result.flops) / peak_flops));
      cells.push_back(format_bytes(static_cast<double>(result.peak_memory_bytes)));
    }
    table.add_row(std::move(cells));
  }
  return table.to_string(terminal_width());
}

}  // namespace

int run_bench_train(const BenchTrainArgs& args) {
  check_policies(args.policies);
  check_contexts(args.contexts);
  Interrupt interrupt;
  if (train::Launch::from_environment().size > 1)
    core::input_error("bench train: it measures one process; start it without a launcher");
  const auto base = ModelSet::load(args.model).base();
  const Interrupt::Work work(interrupt);
  std::vector<std::int64_t> contexts = args.contexts;
  if (contexts.empty() && base->device().is_cpu()) contexts = {1024, 2048};
  if (contexts.empty()) contexts = {4096, 8192, 16384, 32768};
  const double peak_flops = train::measure_peak_flops(base->device(), base->dtype());
  const auto results = BenchTrain(args, base, work).run(contexts);
  const std::string_view dtype = model::dtype_name(base->dtype());
  if (!args.is_json) {
    fmt::print("train {} of {} in {} on {}, {} threads\n{}",
               train::trained_name(args.parameters.trained), args.model.model, dtype,
               base->device().str(), at::get_num_threads(), to_table(results, peak_flops));
    return 0;
  }
  Json rows = Json::array();
  for (const StepTimes& result : results) rows.push_back(to_json(result, peak_flops));
  const Json object = {{"task", "train"},
                       {"model", args.model.model},
                       {"dtype", dtype},
                       {"device", base->device().str()},
                       {"threads", at::get_num_threads()},
                       {"train", train::trained_name(args.parameters.trained)},
                       {"rank", args.parameters.rank},
                       {"checkpoint_activations", args.recomputes},
                       {"peak_flops", peak_flops},
                       {"results", std::move(rows)}};
  fmt::print("{}\n", object.dump(2, ' ', false, Json::error_handler_t::replace));
  return 0;
}

}  // namespace gsa::apps
