#include <ATen/Parallel.h>
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <initializer_list>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "bench_train.h"
#include "command.h"
#include "core/error.h"
#include "core/rng.h"
#include "engine/compare.h"
#include "engine/reading.h"
#include "engine/session.h"
#include "interrupt.h"
#include "options.h"
#include "progress.h"
#include "samples.h"
#include "table.h"
#include "terminal.h"

namespace gsa::apps {
namespace {

using Json = nlohmann::ordered_json;

constexpr const char* examples = R"(
Contexts are random tokens. prefill reads them from nothing; decode answers behind a context that was
read before, token by token. Policies take turns, so that a busy machine disturbs all alike; the
median is reported with the fastest and the slowest repetition.
train times whole training steps (forward, loss, backward, optimiser) as gsa train cpt takes them, on
rows of --context raw tokens each; the gists of gsa@CHUNKS come on top. full is plain causal
attention by the same code. Memory: what tensors hold at most on a GPU, the process on a CPU.

Examples:
  gsa bench decode --model smollm2 --context 512,2048,8192 --policies full,gsa --threads 2
  gsa bench prefill --model smollm2 --context 8192 --policies full,gsa@16,gsa@4-4 --reps 5 --json
  gsa bench train --model smollm2 --context 1024,2048 --policies gsa@16,full --batch-tokens 2048
)";

constexpr std::int64_t warmup_len = 256;
constexpr std::int64_t prompt_len = 4;
constexpr int max_attempts = 100;

struct BenchArgs {
  ModelArgs model;
  std::string task;
  std::vector<std::int64_t> contexts;
  std::string policies;
  std::int64_t segment_len = engine::SessionOptions{}.segment_len;
  int num_reps = 5;
  std::int64_t num_tokens = 32;
  std::uint64_t seed = 1;
  std::int64_t batch_tokens = BenchTrainArgs{}.batch_tokens;
  std::string trained = "lora";
  std::int64_t rank = train::ParameterOptions{}.rank;
  bool recomputes = false;
  bool is_json = false;
  bool is_quiet = false;
};

/// Repetitions of one policy at one length.
struct Measurement {
  std::string policy;
  std::int64_t context = 0;
  Samples ms_per_token;
  double fraction_read = 0;
};

class Bench {
 public:
  Bench(const BenchArgs& args, std::vector<engine::PolicyRun> runs, const Interrupt::Work& work)
      : args_(args),
        runs_(std::move(runs)),
        work_(work),
        rng_(args.seed),
        progress_(!args.is_quiet) {}

  std::vector<Measurement> run() {
    std::vector<Measurement> results;
    for (const std::int64_t context : args_.contexts) {
      auto some = args_.task == "prefill" ? measure_prefill(context) : measure_decode(context);
      std::move(some.begin(), some.end(), std::back_inserter(results));
    }
    progress_.end();
    return results;
  }

 private:
  std::vector<Measurement> empty_measurements(std::int64_t context) const {
    std::vector<Measurement> measurements;
    for (const engine::PolicyRun& run : runs_)
      measurements.push_back({run.spec.to_string(), context, {}, 0});
    return measurements;
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
    progress_.begin(
        fmt::format("{} {}, {} tokens", args_.task, run.spec.to_string(), context.ids.size()));
    return engine::Reading::read(run.model, run.spec, context, args_.segment_len,
                                 [&](std::int64_t done, std::int64_t total) {
                                   work_.check();
                                   progress_.update(done, total);
                                 });
  }

  std::vector<Measurement> measure_prefill(std::int64_t num_context) {
    std::vector<Measurement> results = empty_measurements(num_context);
    for (const engine::PolicyRun& run : runs_)
      read(run, random_context(std::min(num_context, warmup_len)));
    for (int rep = 0; rep < args_.num_reps; ++rep) {
      const engine::ContextTokens context = random_context(num_context);
      for (std::size_t i = 0; i < runs_.size(); ++i) {
        const auto reading = read(runs_[i], context);
        results[i].ms_per_token.values.push_back(1000 * reading->seconds() /
                                                 static_cast<double>(num_context));
        results[i].fraction_read = engine::prefill_fraction(reading->layout(runs_[i].spec.layout),
                                                            *attention::make_policy(runs_[i].spec));
      }
    }
    return results;
  }

  std::vector<Measurement> measure_decode(std::int64_t num_context) {
    std::vector<Measurement> results = empty_measurements(num_context);
    std::vector<engine::Session> sessions = make_sessions(num_context);
    for (engine::Session& session : sessions) decode(session);  // warm-up
    for (int rep = 0; rep < args_.num_reps; ++rep) {
      for (std::size_t i = 0; i < sessions.size(); ++i) {
        const auto [ms_per_token, fraction_read] = decode(sessions[i]);
        results[i].ms_per_token.values.push_back(ms_per_token);
        results[i].fraction_read = fraction_read;
      }
    }
    return results;
  }

  /// A session per policy behind the same context, which is read once per way of reading.
  std::vector<engine::Session> make_sessions(std::int64_t num_context) {
    engine::SessionOptions options;
    options.chat_template = text::ChatTemplate::by_name("chatml");  // not used, but asked for
    options.segment_len = args_.segment_len;
    const engine::ContextTokens context = random_context(num_context);
    std::vector<engine::Session> sessions;
    std::vector<std::shared_ptr<const engine::Reading>> readings;
    for (const engine::PolicyRun& run : runs_) {
      auto found = std::find_if(readings.begin(), readings.end(), [&](const auto& reading) {
        return reading->serves(*run.model, run.spec);
      });
      if (found == readings.end()) found = readings.insert(found, read(run, context));
      sessions.emplace_back(run.model, run.spec, options);
      sessions.back().adopt(*found);
    }
    return sessions;
  }

  struct Decoded {
    double ms_per_token = 0;
    double fraction_read = 0;
  };

  /// Generates until enough tokens were timed: after random tokens a model may end its turn early.
  Decoded decode(engine::Session& session) {
    progress_.begin(fmt::format("decode {}, {} tokens", session.policy().to_string(),
                                session.reading()->num_tokens()));
    double seconds = 0;
    Decoded decoded;
    std::int64_t num_timed = 0;
    for (int attempt = 0; num_timed < args_.num_tokens; ++attempt) {
      if (attempt == max_attempts)
        core::resource_error("bench: the model ends its answers at once: try another --seed");
      const engine::GenerateOptions generate{.max_tokens = args_.num_tokens - num_timed + 1,
                                             .cancel = work_.token()};
      const engine::Answer answer = session.ask_tokens(random_tokens(prompt_len), generate);
      work_.check();
      if (answer.num_tokens < 2) continue;
      num_timed += answer.num_tokens - 1;
      seconds += answer.decode_seconds;
      decoded.fraction_read = answer.fraction_read;
    }
    decoded.ms_per_token = 1000 * seconds / static_cast<double>(num_timed);
    return decoded;
  }

  const BenchArgs& args_;
  std::vector<engine::PolicyRun> runs_;
  const Interrupt::Work& work_;
  core::Rng rng_;
  ProgressBar progress_;
};

std::string to_json(const BenchArgs& args, const model::Model& model, double load_seconds,
                    const std::vector<Measurement>& measurements) {
  Json results = Json::array();
  for (const Measurement& result : measurements) {
    results.push_back({{"policy", result.policy},
                       {"context", result.context},
                       {"ms_per_token", result.ms_per_token.median()},
                       {"tokens_per_second", 1000 / result.ms_per_token.median()},
                       {"fraction_read", result.fraction_read},
                       {"ms_per_token_min", result.ms_per_token.min()},
                       {"ms_per_token_max", result.ms_per_token.max()},
                       {"reps", result.ms_per_token.values.size()}});
  }
  const Json object = {{"task", args.task},
                       {"model", args.model.model},
                       {"dtype", model::dtype_name(model.dtype())},
                       {"device", model.device().str()},
                       {"threads", at::get_num_threads()},
                       {"load_seconds", load_seconds},
                       {"results", std::move(results)}};
  return object.dump(2, ' ', false, Json::error_handler_t::replace);
}

std::string to_table(const std::vector<Measurement>& measurements) {
  using enum Table::Align;
  Table table({{"policy", left},
               {"context", right},
               {"ms/token", right},
               {"min", right},
               {"max", right},
               {"tokens/s", right},
               {"keys read", right}});
  for (const Measurement& result : measurements) {
    const Samples& ms = result.ms_per_token;
    table.add_row({result.policy, format_count(result.context), fmt::format("{:.3f}", ms.median()),
                   fmt::format("{:.3f}", ms.min()), fmt::format("{:.3f}", ms.max()),
                   fmt::format("{:.1f}", 1000 / ms.median()),
                   format_percent(result.fraction_read)});
  }
  return table.to_string(terminal_width());
}

/// Input error if an option was given that the task has no use for.
void refuse_options(const CLI::App& app, const std::string& task) {
  const std::initializer_list<const char*> of_train = {"--batch-tokens", "--train", "--rank",
                                                       "--checkpoint-activations"};
  const std::initializer_list<const char*> of_others = {"--tokens", "--segment", "--adapter"};
  for (const char* name : task == "train" ? of_others : of_train) {
    if (app.count(name) > 0) {
      core::input_error("bench {}: {} belongs to {}; leave it out", task, name,
                        task == "train" ? "prefill and decode" : "train");
    }
  }
}

int run_train(const BenchArgs& args) {
  BenchTrainArgs train;
  train.model = args.model;
  train.contexts = args.contexts;
  train.policies = parse_policies(args.policies.empty() ? "gsa@16,full" : args.policies);
  train.batch_tokens = args.batch_tokens;
  train.num_reps = args.num_reps;
  train.parameters.trained = train::parse_trained(args.trained);
  train.parameters.rank = args.rank;
  train.parameters.seed = args.seed;
  train.recomputes = args.recomputes;
  train.is_json = args.is_json;
  train.is_quiet = args.is_quiet;
  return run_bench_train(train);
}

int run_bench(BenchArgs args) {
  if (args.contexts.empty()) args.contexts = {512, 2048, 8192};
  if (args.policies.empty()) args.policies = "full,gsa";
  auto specs = parse_policies(args.policies);
  Interrupt interrupt;
  const auto start = std::chrono::steady_clock::now();
  ModelSet models = ModelSet::load(args.model);
  const double load_seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  const Interrupt::Work work(interrupt);
  const auto results = Bench(args, make_runs(std::move(specs), models), work).run();
  if (args.is_json) {
    fmt::print("{}\n", to_json(args, *models.base(), load_seconds, results));
  } else {
    fmt::print("{} of {}, {} threads, loaded in {:.2f} s\n{}", args.task, args.model.model,
               at::get_num_threads(), load_seconds, to_table(results));
  }
  return 0;
}

void add_step_options(CLI::App& app, BenchArgs& args) {
  const auto* group = "Task train";
  app.add_option("--batch-tokens", args.batch_tokens,
                 "raw tokens per step: as many rows as they hold, at least one")
      ->check(CLI::Range(std::int64_t{1}, std::int64_t{10'000'000}))
      ->capture_default_str()
      ->group(group);
  app.add_option("--train", args.trained, "lora, or full: all weights (gists always train)")
      ->check(CLI::IsMember({"lora", "full"}))
      ->capture_default_str()
      ->group(group);
  app.add_option("--rank", args.rank, "of LoRA, on all projections")
      ->check(CLI::Range(1, 4096))
      ->capture_default_str()
      ->group(group);
  app.add_flag("--checkpoint-activations", args.recomputes,
               "compute layers twice instead of keeping what backward needs")
      ->group(group);
}

}  // namespace

Command add_bench(CLI::App& app) {
  auto args = std::make_shared<BenchArgs>();
  app.add_option("task", args->task, "prefill, decode or train")
      ->required()
      ->check(CLI::IsMember({"prefill", "decode", "train"}));
  app.add_option("--context,-c", args->contexts,
                 "lengths in tokens, separated by commas (default: 512,2048,8192; train: "
                 "4096,8192,16384,32768 on a GPU, 1024,2048 on a CPU)")
      ->delimiter(',')
      ->allow_extra_args(false)
      ->check(CLI::Range(std::int64_t{1}, std::int64_t{10'000'000}));
  app.add_option("--policies,-p", args->policies,
                 "separated by commas (default: full,gsa; train: gsa@16,full)");
  app.add_option("--reps", args->num_reps, "repetitions after a warm-up")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  app.add_option("--tokens", args->num_tokens, "decode: tokens timed per repetition")
      ->check(CLI::Range(1, 100'000))
      ->capture_default_str();
  app.add_option("--segment", args->segment_len, "prefill, decode: tokens read per step")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app.add_option("--seed", args->seed, "of the random tokens")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  add_step_options(app, *args);
  app.add_flag("--json", args->is_json, "one JSON object on standard output");
  app.add_flag("--quiet", args->is_quiet, "no progress");
  add_model_options(app, args->model);
  app.footer(policy_help() + examples);
  return [args, &app] {
    refuse_options(app, args->task);
    return args->task == "train" ? run_train(*args) : run_bench(*args);
  };
}

}  // namespace gsa::apps
