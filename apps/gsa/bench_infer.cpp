#include "bench_infer.h"

#include <ATen/Parallel.h>
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <utility>

#include "core/error.h"
#include "core/rng.h"
#include "engine/compare.h"
#include "engine/memory.h"
#include "engine/reading.h"
#include "interrupt.h"
#include "memory_plan.h"
#include "peak_memory.h"
#include "progress.h"
#include "step_cost.h"
#include "table.h"
#include "terminal.h"
#include "train/flops.h"

namespace gsa::apps {
namespace {

using Clock = std::chrono::steady_clock;
using Task = BenchInferArgs::Task;
using Store = BenchInferArgs::Store;

constexpr std::int64_t warmup_len = 256;
constexpr std::int64_t prompt_len = 4;
constexpr int max_attempts = 100;

bool has_random_store(const BenchInferArgs& args, const model::Model& model, std::int64_t context) {
  if (args.task == Task::prefill || args.store == Store::read) return false;
  return args.store == Store::random || context > model.config().trained_window;
}

MemoryPlan plan_of(const engine::PolicyRun& run, std::int64_t context) {
  return plan_memory(*run.model, run.spec, context);
}

/// What would fail in the middle of the work fails before it.
void check(const BenchInferArgs& args, const std::vector<engine::PolicyRun>& runs) {
  for (const std::int64_t context : args.contexts) {
    for (const engine::PolicyRun& run : runs) {
      if (has_random_store(args, *run.model, context) &&
          attention::make_policy(run.spec)->observes_context()) {
        core::input_error(
            "bench decode: {} keeps what it observes while a context is read: give --store read",
            run.spec.to_string());
      }
      if (const MemoryPlan plan = plan_of(run, context); !plan.fits()) {
        core::resource_error(
            "bench {}: keys and values of {} tokens under {} need {}, {} are free: give a shorter "
            "--context",
            task_name(args.task), context, run.spec.to_string(), format_bytes(plan.context()),
            format_bytes(static_cast<double>(*plan.available)));
      }
    }
  }
}

class BenchInfer {
 public:
  BenchInfer(const BenchInferArgs& args, std::vector<engine::PolicyRun> runs,
             const Interrupt::Work& work)
      : args_(args),
        runs_(std::move(runs)),
        work_(work),
        rng_(args.seed),
        progress_(!args.is_quiet) {
    if (args.is_cold) large_array_ = make_large_array(runs_[0].model->device());
  }

  std::vector<InferTimes> run() {
    std::vector<InferTimes> results;
    for (const std::int64_t context : args_.contexts) {
      auto some = args_.task == Task::prefill ? measure_prefill(context) : measure_decode(context);
      std::move(some.begin(), some.end(), std::back_inserter(results));
    }
    progress_.end();
    return results;
  }

 private:
  std::vector<InferTimes> empty_results(std::int64_t context) const {
    std::vector<InferTimes> results(runs_.size());
    for (std::size_t i = 0; i < runs_.size(); ++i) {
      results[i].policy = runs_[i].spec.to_string();
      results[i].context = context;
      results[i].has_random_store = has_random_store(args_, *runs_[i].model, context);
    }
    return results;
  }

  std::vector<std::int64_t> random_tokens(std::int64_t count) {
    const auto vocab = static_cast<std::uint32_t>(runs_[0].model->tokenizer().vocab_size());
    std::vector<std::int64_t> ids(static_cast<std::size_t>(count));
    for (std::int64_t& id : ids) id = rng_.below(vocab);
    return ids;
  }

  engine::ContextTokens random_context(std::int64_t count) {
    return {.ids = random_tokens(count), .piece_ends = {count}};
  }

  std::shared_ptr<const engine::Reading> read(const engine::PolicyRun& run,
                                              const engine::ContextTokens& context) {
    progress_.begin(fmt::format("{} {}, {} tokens", task_name(args_.task),
                                brief_policy(run.spec.to_string()), context.ids.size()));
    return engine::Reading::read(run.model, run.spec, context, args_.segment_len,
                                 [&](std::int64_t done, std::int64_t total) {
                                   work_.check();
                                   progress_.update(done, total);
                                 });
  }

  std::vector<InferTimes> measure_prefill(std::int64_t num_context) {
    std::vector<InferTimes> results = empty_results(num_context);
    for (const engine::PolicyRun& run : runs_)
      read(run, random_context(std::min(num_context, warmup_len)));
    for (int rep = 0; rep < args_.num_reps; ++rep) {
      const engine::ContextTokens context = random_context(num_context);
      for (std::size_t i = 0; i < runs_.size(); ++i)
        time_reading(runs_[i], context, rep == 0, results[i]);
    }
    return results;
  }

  void time_reading(const engine::PolicyRun& run, const engine::ContextTokens& context,
                    bool is_first, InferTimes& result) {
    const auto num_context = static_cast<double>(context.ids.size());
    std::optional<PeakMemory> peak;
    if (is_first) peak.emplace(run.model->device());
    const auto reading = read(run, context);
    result.ms_per_token.values.push_back(1000 * reading->seconds() / num_context);
    if (!is_first) return;
    result.peak_memory_bytes = peak->bytes();
    result.store_bytes = reading->store_bytes();
    const attention::Layout layout = reading->layout(run.spec.layout);
    result.fraction_read = engine::prefill_fraction(layout, reading->policy());
    result.flops_per_token =
        prefill_flops(run.model->config(), layout, reading->policy()) / num_context;
  }

  std::vector<InferTimes> measure_decode(std::int64_t num_context) {
    std::vector<InferTimes> results = empty_results(num_context);
    const engine::ContextTokens context = random_context(num_context);
    std::size_t first = 0;
    while (first < runs_.size()) {
      std::vector<engine::Session> sessions = make_sessions(context, first);
      const std::span some(results.data() + first, sessions.size());
      warm_up(sessions, some);
      for (int rep = 0; rep < args_.num_reps; ++rep)
        for (std::size_t i = 0; i < sessions.size(); ++i)
          some[i].ms_per_token.values.push_back(decode(sessions[i], some[i]));
      first += sessions.size();
    }
    return results;
  }

  /// Sessions of the policies from `first` on behind the same context, which is read once per way
  /// of reading; as many as half of the memory that is free holds, and one at least.
  std::vector<engine::Session> make_sessions(const engine::ContextTokens& context,
                                             std::size_t first) {
    const auto num_context = static_cast<std::int64_t>(context.ids.size());
    engine::SessionOptions options;
    options.chat_template = text::ChatTemplate::by_name("chatml");  // not used, but asked for
    options.segment_len = args_.segment_len;
    std::vector<engine::Session> sessions;
    std::vector<std::shared_ptr<const engine::Reading>> readings;
    for (const engine::PolicyRun& run : std::span(runs_).subspan(first)) {
      auto found = std::find_if(readings.begin(), readings.end(), [&](const auto& reading) {
        return reading->serves(*run.model, run.spec);
      });
      if (found == readings.end()) {
        const MemoryPlan plan = plan_of(run, num_context);
        if (!readings.empty() && plan.available && 2 * plan.context() > *plan.available) break;
        found = readings.insert(found, make_reading(run, context));
      }
      sessions.emplace_back(run.model, run.spec, options);
      sessions.back().adopt(*found);
    }
    return sessions;
  }

  std::shared_ptr<const engine::Reading> make_reading(const engine::PolicyRun& run,
                                                      const engine::ContextTokens& context) {
    const auto num_context = static_cast<std::int64_t>(context.ids.size());
    if (!has_random_store(args_, *run.model, num_context)) return read(run, context);
    work_.check();
    return engine::Reading::random(run.model, run.spec, context, args_.seed);
  }

  /// One repetition that does not count, in which memory is measured.
  void warm_up(std::vector<engine::Session>& sessions, std::span<InferTimes> results) {
    std::set<std::shared_ptr<const engine::Reading>> readings;
    for (const engine::Session& session : sessions) readings.insert(session.reading());
    std::int64_t held_bytes = 0;
    for (const auto& reading : readings) held_bytes += reading->store_bytes();
    for (std::size_t i = 0; i < sessions.size(); ++i) {
      const std::int64_t own_bytes = sessions[i].reading()->store_bytes();
      const PeakMemory peak(sessions[i].model()->device());
      decode(sessions[i], results[i]);
      results[i].peak_memory_bytes = peak.bytes() - (held_bytes - own_bytes);
      results[i].store_bytes = own_bytes;
      results[i].weight_bytes_per_token = weight_bytes_per_step(*sessions[i].model());
    }
  }

  /// Milliseconds per token, greedily. Generates until enough tokens were timed: after random
  /// tokens a model may end its turn early. Emptying the caches is taken off the time.
  double decode(engine::Session& session, InferTimes& result) {
    progress_.begin(fmt::format("decode {}, {} tokens", brief_policy(session.policy().to_string()),
                                session.reading()->num_tokens()));
    double seconds = 0;
    std::int64_t num_timed = 0;
    const auto empty_caches = [&](std::string_view) {
      const auto begin = Clock::now();
      large_array_.sum().item();
      seconds -= std::chrono::duration<double>(Clock::now() - begin).count();
    };
    for (int attempt = 0; num_timed < args_.num_tokens; ++attempt) {
      if (attempt == max_attempts)
        core::resource_error("bench: the model ends its answers at once: try another --seed");
      engine::GenerateOptions generate{.max_tokens = args_.num_tokens - num_timed + 1,
                                       .cancel = work_.token()};
      if (args_.is_cold) generate.on_token = empty_caches;
      const engine::Answer answer = session.ask_tokens(random_tokens(prompt_len), generate);
      work_.check();
      if (answer.num_tokens < 2) continue;
      num_timed += answer.num_tokens - 1;
      seconds += answer.decode_seconds;
      result.fraction_read = answer.fraction_read;
      result.kv_bytes_per_token = answer.kv_bytes_per_token;
    }
    return 1000 * seconds / static_cast<double>(num_timed);
  }

  const BenchInferArgs& args_;
  std::vector<engine::PolicyRun> runs_;
  const Interrupt::Work& work_;
  core::Rng rng_;
  at::Tensor large_array_;
  ProgressBar progress_;
};

}  // namespace

int run_bench_infer(const BenchInferArgs& args) {
  Interrupt interrupt;
  InferHeader header;
  const auto start = std::chrono::steady_clock::now();
  ModelSet models = ModelSet::load(args.model);
  header.load_seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  const Interrupt::Work work(interrupt);
  const model::Model& model = *models.base();
  header.dtype = model::dtype_name(model.dtype());
  header.device = model.device().str();
  header.num_threads = at::get_num_threads();
  header.load_peak_memory_bytes = engine::peak_memory_bytes(model.device());
  auto runs = make_runs(args.policies, models);
  check(args, runs);
  header.machine = {measure_stream_bandwidth(model.device()),
                    train::measure_peak_flops(model.device(), model.dtype())};
  const auto results = BenchInfer(args, std::move(runs), work).run();
  const std::string text =
      args.is_json ? to_json(args, header, results) + "\n" : to_table(args, header, results);
  fmt::print("{}", text);
  return 0;
}

}  // namespace gsa::apps
