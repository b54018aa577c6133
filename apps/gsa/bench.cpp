#include <fmt/format.h>
#include <fmt/ranges.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <initializer_list>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "bench_eval.h"
#include "bench_infer.h"
#include "bench_train.h"
#include "command.h"
#include "core/error.h"
#include "number_checks.h"
#include "options.h"

namespace gsa::apps {
namespace {

constexpr const char* examples = R"(
Contexts are random tokens. prefill reads them from nothing; decode answers behind a context, token
by token, always the most likely one. Above the window that the model was trained for nobody reads
the context for decode: keys and values are filled with random numbers, of gists too, since speed
does not depend on them (--store read|random says otherwise; what a policy selects among random
keys has the size of what it selects among true ones). Policies take turns, as many as memory
holds, so that a busy machine disturbs all alike; the median is reported with the fastest and the
slowest repetition. Beside it stand, for decode, the bytes of weights, keys and values that a token
reads, as a share of what the machine's memory delivers; for prefill the operations of a token, as a
share of what large matrix products reach; both limits are measured when the program starts.
memory: the largest size of the process, without the stores of other policies.
train times whole training steps (forward, loss, backward, optimiser) as gsa train cpt takes them, on
rows of --context raw tokens each; the gists of gsa@CHUNKS come on top. full is plain causal
attention by the same code. Memory: what tensors hold at most on a GPU, the process on a CPU.
eval times the answers to the items of tasks as gsa eval gives them, from texts to scores.

Examples:
  gsa bench decode --model smollm2 --context 512,2048,8192 --policies full,gsa --threads 2
  gsa bench decode --model smollm2 --context 128,32768,131072 --policies full,gsa@16,gsa@16-16-16:tokens=1024
  gsa bench prefill --model smollm2 --context 8192 --policies full,gsa@16,gsa@4-4 --reps 5 --json
  gsa bench train --model smollm2 --context 1024,2048 --policies gsa@16,full --batch-tokens 2048
  gsa bench eval --model smollm2 --tasks hotpotqa.jsonl --items 100 --policies full --threads 2
)";

constexpr int default_reps = 5;

struct BenchArgs {
  std::string task;
  std::string store = "auto";
  std::string policies;
  BenchInferArgs infer;  ///< what the tasks share is taken from here
  BenchEvalArgs eval;
  std::optional<int> num_reps;
  std::int64_t batch_tokens = BenchTrainArgs{}.batch_tokens;
  std::string trained = "lora";
  std::int64_t rank = train::ParameterOptions{}.rank;
  bool recomputes = false;
};

/// Input error if an option was given that the task has no use for.
void refuse_options(const CLI::App& app, const std::string& task) {
  struct Owned {
    const char* option;
    std::initializer_list<std::string_view> tasks;
  };
  const std::initializer_list<Owned> all = {{"--context", {"prefill", "decode", "train"}},
                                            {"--tokens", {"prefill", "decode"}},
                                            {"--store", {"decode"}},
                                            {"--cold", {"decode"}},
                                            {"--segment", {"prefill", "decode", "eval"}},
                                            {"--adapter", {"prefill", "decode", "eval"}},
                                            {"--batch-tokens", {"train"}},
                                            {"--train", {"train"}},
                                            {"--rank", {"train"}},
                                            {"--checkpoint-activations", {"train"}},
                                            {"--tasks", {"eval"}},
                                            {"--items", {"eval"}},
                                            {"--batch", {"eval"}},
                                            {"--prompts", {"eval"}}};
  for (const auto& [option, tasks] : all) {
    if (app.count(option) > 0 && std::ranges::find(tasks, task) == tasks.end()) {
      core::input_error("bench {}: {} belongs to {}; leave it out", task, option,
                        fmt::join(tasks, " and "));
    }
  }
}

int run_eval(const BenchArgs& args) {
  BenchEvalArgs eval = args.eval;
  if (eval.tasks.empty()) eval.tasks = "passkey:lengths=1300:n=20";
  eval.model = args.infer.model;
  eval.policies = parse_policies(args.policies.empty() ? "full" : args.policies);
  eval.segment_len = args.infer.segment_len;
  eval.num_reps = args.num_reps.value_or(1);
  eval.is_json = args.infer.is_json;
  eval.is_quiet = args.infer.is_quiet;
  return run_bench_eval(eval);
}

int run_train(const BenchArgs& args) {
  BenchTrainArgs train;
  train.model = args.infer.model;
  train.contexts = args.infer.contexts;
  train.policies = parse_policies(args.policies.empty() ? "gsa@16,full" : args.policies);
  train.batch_tokens = args.batch_tokens;
  train.num_reps = args.num_reps.value_or(default_reps);
  train.parameters.trained = train::parse_trained(args.trained);
  train.parameters.rank = args.rank;
  train.parameters.seed = args.infer.seed;
  train.recomputes = args.recomputes;
  train.is_json = args.infer.is_json;
  train.is_quiet = args.infer.is_quiet;
  return run_bench_train(train);
}

int run_infer(const BenchArgs& args) {
  using Store = BenchInferArgs::Store;
  BenchInferArgs infer = args.infer;
  infer.task =
      args.task == "prefill" ? BenchInferArgs::Task::prefill : BenchInferArgs::Task::decode;
  if (args.store == "read") infer.store = Store::read;
  if (args.store == "random") infer.store = Store::random;
  infer.num_reps = args.num_reps.value_or(default_reps);
  if (infer.contexts.empty()) infer.contexts = {512, 2048, 8192};
  infer.policies = parse_policies(args.policies.empty() ? "full,gsa" : args.policies);
  return run_bench_infer(infer);
}

void add_step_options(CLI::App& app, BenchArgs& args) {
  const auto* group = "Task train";
  app.add_option("--batch-tokens", args.batch_tokens,
                 "raw tokens per step: as many rows as they hold, at least one")
      ->check(whole_number(1, 10'000'000))
      ->capture_default_str()
      ->group(group);
  app.add_option("--train", args.trained, "lora, or full: all weights (gists always train)")
      ->check(CLI::IsMember({"lora", "full"}))
      ->capture_default_str()
      ->group(group);
  app.add_option("--rank", args.rank, "of LoRA, on all projections")
      ->check(whole_number(1, 4096))
      ->capture_default_str()
      ->group(group);
  app.add_flag("--checkpoint-activations", args.recomputes,
               "compute layers twice instead of keeping what backward needs")
      ->group(group);
}

void add_eval_options(CLI::App& app, BenchEvalArgs& args) {
  const auto* group = "Task eval";
  app.add_option("--tasks", args.tasks,
                 "as gsa eval takes them (default: 100 pass keys in 1300 tokens each)")
      ->group(group);
  app.add_option("--items", args.num_items, "first so many items of the tasks")
      ->check(whole_number(1, 1'000'000))
      ->capture_default_str()
      ->group(group);
  app.add_option("--batch", args.batch_size, "items that are answered together")
      ->check(whole_number(1, 1024))
      ->capture_default_str()
      ->group(group);
  app.add_option("--prompts", args.prompts_file,
                 "file to write the items' tokens to, for another program: a JSON object per line")
      ->group(group);
}

}  // namespace

Command add_bench(CLI::App& app) {
  auto args = std::make_shared<BenchArgs>();
  app.add_option("task", args->task, "prefill, decode, train or eval")
      ->required()
      ->check(CLI::IsMember({"prefill", "decode", "train", "eval"}));
  app.add_option("--context,-c", args->infer.contexts,
                 "lengths in tokens, separated by commas (default: 512,2048,8192; train: "
                 "4096,8192,16384,32768 on a GPU, 1024,2048 on a CPU)")
      ->delimiter(',')
      ->allow_extra_args(false)
      ->check(whole_number(1, 1'000'000'000));
  app.add_option("--policies,-p", args->policies,
                 "separated by commas (default: full,gsa; train: gsa@16,full; eval: full)");
  app.add_option("--reps", args->num_reps,
                 fmt::format("repetitions after a warm-up (default: {}; eval: 1)", default_reps))
      ->check(whole_number(1, 1000));
  app.add_option("--tokens", args->infer.num_tokens, "decode: tokens timed per repetition")
      ->check(whole_number(1, 100'000))
      ->capture_default_str();
  app.add_option("--store", args->store,
                 "decode: keys and values of the context: read, random, or auto: random above the "
                 "model's window")
      ->check(CLI::IsMember({"auto", "read", "random"}))
      ->capture_default_str();
  app.add_flag(
      "--cold", args->infer.is_cold,
      "decode: empty the caches before every token, so that all comes from memory; takes 1 GiB");
  app.add_option("--segment", args->infer.segment_len,
                 "prefill, decode, eval: tokens read per step")
      ->check(whole_number(1))
      ->capture_default_str();
  app.add_option("--seed", args->infer.seed, "of the random tokens")
      ->check(whole_number(0))
      ->capture_default_str();
  add_step_options(app, *args);
  add_eval_options(app, args->eval);
  app.add_flag("--json", args->infer.is_json, "one JSON object on standard output");
  app.add_flag("--quiet", args->infer.is_quiet, "no progress");
  add_model_options(app, args->infer.model);
  app.footer(policy_help() + examples);
  return [args, &app] {
    refuse_options(app, args->task);
    if (args->task == "train") return run_train(*args);
    return args->task == "eval" ? run_eval(*args) : run_infer(*args);
  };
}

}  // namespace gsa::apps
