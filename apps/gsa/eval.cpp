#include <ATen/Parallel.h>
#include <fmt/ranges.h>

#include <CLI/CLI.hpp>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "command.h"
#include "core/error.h"
#include "core/file.h"
#include "eval/runner.h"
#include "eval/summary.h"
#include "find_model.h"
#include "interrupt.h"
#include "options.h"
#include "progress.h"
#include "table.h"
#include "terminal.h"
#include "text/sha256.h"

namespace gsa::apps {
namespace {

using Json = nlohmann::ordered_json;

constexpr const char* examples = R"(
A task is a JSON Lines file, a question per line, perhaps packed (.gz, .xz, .zst):
  {"_id": "1", "input": "Who is Tom?", "documents": ["...", "..."], "answers": ["a cat"]}
The first line of an answer is scored as SQuAD does: F1 of words, exact match, answer contained.

Examples:
  gsa eval --model smollm2 --tasks squad_long.jsonl,hotpotqa.jsonl --policies full,meanpool@8
  gsa eval --model smollm2 --adapter a.safetensors --tasks qa.jsonl --policies gsa@8,gsa@16 \
      --records run.jsonl --json --device cuda --workers 8

With --records a run that was stopped goes on when it is started again.
)";

struct EvalArgs {
  ModelArgs model;
  SessionArgs session;
  engine::GenerateOptions generate;
  std::vector<std::string> tasks;
  std::string policies = "full";
  std::int64_t limit = 0;
  int num_workers = 1;
  std::string records;
  bool is_json = false;
  bool is_quiet = false;
};

std::vector<eval::Task> read_tasks(const EvalArgs& args) {
  std::vector<eval::Task> tasks;
  for (const std::string& path : args.tasks) {
    eval::Task task = eval::read_task(path);
    for (const eval::Task& other : tasks) {
      if (other.name == task.name)
        core::input_error("eval: two tasks are named '{}': rename a file", task.name);
    }
    if (args.limit > 0 && std::ssize(task.items) > args.limit)
      task.items.resize(static_cast<std::size_t>(args.limit));
    tasks.push_back(std::move(task));
  }
  return tasks;
}

std::string digest_of(const std::filesystem::path& path) {
  text::Sha256 digest;
  digest.update(core::read_file(path));
  return digest.finish();
}

/// Everything on which a record depends besides its item and its policy.
std::string run_name(const EvalArgs& args, const ModelSet& models) {
  std::vector<std::string> adapters;
  for (const std::string& name : args.model.adapters)
    adapters.push_back(digest_of(find_adapter(name)));
  const engine::SamplingOptions& sampling = args.generate.sampling;
  return fmt::format(
      "{} {} {}, adapters [{}], template '{}', system prompt '{}', thinking {}, online gisting {}, "
      "at most {} tokens, stop {}, temperature {}, top-k {}, top-p {}, min-p {}, "
      "repetition penalty {}, seed {}",
      find_model(args.model.model).filename().string(), models.base()->fingerprint(),
      args.model.dtype, fmt::join(adapters, ", "), args.session.chat_template,
      args.session.system_prompt.value_or("(the model's)"), args.session.thinking,
      args.session.no_online_gisting ? "off" : "on", args.generate.max_tokens.value_or(0),
      args.generate.stop, sampling.temperature, sampling.top_k, sampling.top_p, sampling.min_p,
      sampling.repetition_penalty, sampling.seed);
}

Json to_json(const eval::Interval& interval) {
  return {
      {"mean", 100 * interval.mean}, {"low", 100 * interval.low}, {"high", 100 * interval.high}};
}

std::string to_json(const EvalArgs& args, const ModelSet& models,
                    const std::vector<eval::Summary>& summaries) {
  Json results = Json::array();
  for (const eval::Summary& summary : summaries) {
    results.push_back({{"task", summary.task},
                       {"policy", summary.policy},
                       {"score", 100 * summary.f1.mean},
                       {"fraction_read", summary.fraction_read},
                       {"n", summary.num_items},
                       {"f1", to_json(summary.f1)},
                       {"exact_match", to_json(summary.exact_match)},
                       {"contains", to_json(summary.contains)},
                       {"prefill_fraction", summary.prefill_fraction},
                       {"context_tokens", summary.context_tokens},
                       {"answer_tokens", summary.answer_tokens}});
  }
  Json object = {{"model", args.model.model}, {"adapter", nullptr}};
  if (const auto names = models.adapter_names()) object["adapter"] = *names;
  object["results"] = std::move(results);
  return object.dump(2, ' ', false, Json::error_handler_t::replace);
}

std::string format_interval(const eval::Interval& interval) {
  return fmt::format("{:.1f} ({:.1f} to {:.1f})", 100 * interval.mean, 100 * interval.low,
                     100 * interval.high);
}

std::string to_table(const std::vector<eval::Summary>& summaries) {
  using enum Table::Align;
  Table table({{"task", left},
               {"policy", left},
               {"n", right},
               {"F1 (95 %)", right},
               {"exact", right},
               {"contained", right},
               {"keys read", right},
               {"tokens", right}});
  for (const eval::Summary& summary : summaries) {
    table.add_row(
        {summary.task, summary.policy, format_count(summary.num_items), format_interval(summary.f1),
         fmt::format("{:.1f}", 100 * summary.exact_match.mean),
         fmt::format("{:.1f}", 100 * summary.contains.mean), format_percent(summary.fraction_read),
         fmt::format("{:.0f}", summary.context_tokens)});
  }
  return table.to_string(terminal_width());
}

int run_eval(const EvalArgs& args) {
  args.generate.sampling.validate();
  auto specs = parse_policies(args.policies);
  const auto tasks = read_tasks(args);
  Interrupt interrupt;
  ModelSet models = ModelSet::load(args.model);
  const auto runs = make_runs(std::move(specs), models);
  if (!args.is_quiet) note_untrained_gists(runs);

  const Interrupt::Work work(interrupt);
  ProgressBar progress(!args.is_quiet);
  progress.begin("eval", "items");
  eval::RunOptions options;
  options.session = make_session_options(args.session);
  options.generate = args.generate;
  options.generate.cancel = work.token();
  options.num_workers = args.num_workers;
  options.records_file = args.records;
  options.run_name = run_name(args, models);
  options.on_item = [&](std::int64_t done, std::int64_t total) { progress.update(done, total); };
  if (args.num_workers > 1 && args.model.num_threads == 0) at::set_num_threads(1);
  const auto records = eval::run_tasks(tasks, runs, options);
  progress.end();
  work.check();
  const auto summaries = eval::summarize(records);
  fmt::print("{}\n", args.is_json ? to_json(args, models, summaries) : to_table(summaries));
  return 0;
}

}  // namespace

Command add_eval(CLI::App& app) {
  auto args = std::make_shared<EvalArgs>();
  args->generate.max_tokens = 32;
  app.add_option("--tasks", args->tasks, "JSON Lines files, separated by commas")
      ->required()
      ->delimiter(',')
      ->allow_extra_args(false);
  app.add_option("--policies,-p", args->policies, "separated by commas")->capture_default_str();
  app.add_option("--limit", args->limit, "first so many items of every task (0: all)")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  app.add_option("--workers", args->num_workers, "items at a time, in threads of their own")
      ->check(CLI::Range(1, 256))
      ->capture_default_str();
  app.add_option("--records", args->records, "file of finished answers, to go on from");
  app.add_flag("--json", args->is_json, "one JSON object on standard output");
  app.add_flag("--quiet", args->is_quiet, "no progress and no notes");
  add_model_options(app, args->model);
  add_generate_options(app, args->generate);
  add_session_options(app, args->session);
  app.footer(policy_help() + examples);
  return [args] { return run_eval(*args); };
}

}  // namespace gsa::apps
