#include "eval_args.h"

#include <fmt/ranges.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <set>
#include <utility>

#include "core/error.h"
#include "eval/report.h"
#include "eval/task_list.h"
#include "number_checks.h"

namespace gsa::apps {
namespace {

constexpr const char* examples = R"(
A task is a JSON Lines file in the schema of LongBench, a question per line, perhaps packed (.gz, .xz,
.zst), FORMAT=FILE with a prompt and metric of the catalogue (gsa eval --list), or a generated one:
  {"_id": "1", "input": "Who is Tom?", "documents": ["...", "..."], "answers": ["a cat"]}
  passkey:lengths=1k,4k:depths=0,50,100    needle:haystack=book.txt:n=3    kv    lines
  perplexity:haystack=book.txt:lengths=1k,2k,4k:predict=256:n=8

Equal budgets: --match takes shares of the keys that full attention reads (0.12) and policies (gsa@16).
Every policy that takes the key tokens, has no budget of its own and is no target itself then runs
once per target, with the budget that lets it read as much, as POLICY:match=TARGET. Budgets are set on
as many items of each task as --calibration-items says, spread over it and not scored. Items that are shorter than a
policy's floor are counted and left out of the tables of equal budget.

Several processes share the items: start with torchrun or mpirun, or set RANK, WORLD_SIZE and
LOCAL_RANK; each takes the GPU of its local rank, and process 0 reports when all are done.

Examples:
  gsa eval --model smollm2 --tasks squad_long.jsonl,hotpotqa=hotpot.jsonl --policies full,meanpool@8
  gsa eval --model smollm2 --adapter a.safetensors --tasks qa.jsonl --records run.jsonl \
      --policies full,gsa@8,gsa@16,meanpool,streaming --match gsa@8,gsa@16 --report out.html
  torchrun --nproc-per-node 8 --no-python gsa eval --model smollm2 --device cuda --records run.jsonl ...

With --records a run that was stopped goes on when it is started again, with any number of processes.
)";

void add_run_options(CLI::App& app, EvalArgs& args) {
  const auto* group = "Run";
  app.add_option("--records", args.records, "file of finished answers, to go on from")
      ->group(group);
  app.add_option("--workers", args.num_workers,
                 "blocks of items at a time, in threads of their own")
      ->check(whole_number(1, 256))
      ->capture_default_str()
      ->group(group);
  app.add_option("--batch", args.batch_size,
                 "items of a block: their answers go on together, a token of each per forward")
      ->check(whole_number(1, 1024))
      ->capture_default_str()
      ->group(group);
  app.add_option("--max-context", args.max_context,
                 "longest item with its answer, in tokens; longer ones are cut in the middle, "
                 "generated ones refused (default: what the model was trained for)")
      ->check(whole_number(64, 10'000'000))
      ->group(group);
  app.add_flag("--finished", args.only_finished,
               "answer nothing: report the items that --records holds for all policies")
      ->group(group);
  app.add_flag("--keep-going", args.keeps_going,
               "skip items that fail and lines that are no item, name them, exit with 1")
      ->group(group);
}

/// Whether a policy's budget is to be set so that it reads as much as the targets.
bool is_to_be_matched(const attention::PolicySpec& spec,
                      const std::vector<eval::MatchTarget>& targets) {
  const std::string name = spec.to_string();
  const auto is_target = [&](const eval::MatchTarget& target) { return target.name == name; };
  return eval::has_default_budget(spec) && eval::has_token_budget(spec) &&
         std::ranges::none_of(targets, is_target);
}

/// The name of an entrant that is written as POLICY or POLICY:match=TARGET.
std::string name_in_results(const std::string& text, ModelSet& models) {
  constexpr std::string_view mark = ":match=";
  const std::size_t end = std::min(text.find(mark), text.size());
  const auto runs = make_runs({parse_policy(text.substr(0, end))}, models);
  if (end == text.size()) return eval::Entrant(runs.front()).name;
  auto target = eval::parse_target(std::string_view(text).substr(end + mark.size()));
  if (target.policy) target.set_model(models.for_policy(target.policy->spec));
  return eval::Entrant(runs.front(), target.name).name;
}

}  // namespace

void add_eval_options(CLI::App& app, EvalArgs& args) {
  app.add_option("--tasks", args.tasks, "files and generated tasks, separated by commas");
  app.add_option("--policies,-p", args.policies, "separated by commas")->capture_default_str();
  app.add_option("--match", args.match,
                 "let policies without a budget of their own read as much: shares of the keys or "
                 "policies, separated by commas");
  app.add_option("--calibration-items", args.calibration_items,
                 "with --match: items of every task to set budgets on; they are not scored")
      ->check(whole_number(1, 100'000))
      ->capture_default_str();
  app.add_option("--baseline", args.baseline,
                 "policy that the others are tested against on the same items (default: full)");
  app.add_option("--limit", args.limit, "first so many items of every task (0: all)")
      ->check(whole_number(0))
      ->capture_default_str();
  app.add_option("--report", args.reports, "file to write: .html, .md or .csv; repeatable")
      ->allow_extra_args(false);
  app.add_option("--diagnostics", args.num_diagnosed,
                 "items of every task on which to look at what policies see: recall of the answer, "
                 "attention recovered, what is unfolded")
      ->check(whole_number(0))
      ->capture_default_str();
  app.add_flag("--list", args.lists,
               "show the formats of the catalogue and the policies, then end");
  app.add_flag("--json", args.is_json, "one JSON object on standard output");
  app.add_flag("--quiet", args.is_quiet, "no progress and no notes");
  add_run_options(app, args);
  add_model_options(app, args.model);
  app.get_option("--model")->required(false);  // --list needs none
  add_generate_options(app, args.generate);
  app.get_option("--max-tokens")
      ->description("longest answer (default: as long as the task's format says, see --list)");
  add_session_options(app, args.session);
  app.footer(policy_help() + examples);
}

void check_eval_args(const EvalArgs& args, int num_processes) {
  for (const auto& [name, value] :
       {std::pair("--model", args.model.model), std::pair("--tasks", args.tasks)})
    if (value.empty()) core::input_error("eval: {} is required (see gsa eval --help)", name);
  args.generate.sampling.validate();
  for (const std::string& path : args.reports) {
    eval::report_format(path);
    check_output("eval: --report", path);
  }
  check_output("eval: --records", args.records);
  for (const std::string& spec : eval::split_task_list(args.tasks)) eval::check_task(spec);
  if (args.only_finished && (args.records.empty() || num_processes > 1))
    core::input_error("eval: --finished is for one process and needs --records");
  if (num_processes > 1 && args.records.empty()) {
    core::input_error(
        "eval: {} processes share the items: give --records, where they put their answers together",
        num_processes);
  }
}

std::vector<eval::MatchTarget> parse_targets(const std::string& match) {
  std::vector<eval::MatchTarget> targets;
  if (match.empty()) return targets;
  for (std::size_t begin = 0; begin <= match.size();) {
    const std::size_t end = std::min(match.find(',', begin), match.size());
    if (end == begin) {
      core::input_error("match: '{}' has an empty entry: write for example 0.1,gsa@16", match);
    }
    auto target = eval::parse_target(match.substr(begin, end - begin));
    if (std::ranges::find(targets, target.name, &eval::MatchTarget::name) != targets.end())
      core::input_error("match: {} is given twice", target.name);
    targets.push_back(std::move(target));
    begin = end + 1;
  }
  return targets;
}

std::vector<eval::Entrant> make_entrants(const std::vector<attention::PolicySpec>& specs,
                                         std::vector<eval::MatchTarget>& targets,
                                         ModelSet& models) {
  for (eval::MatchTarget& target : targets)
    if (target.policy) target.set_model(models.for_policy(target.policy->spec));
  std::vector<eval::Entrant> entrants;
  std::set<std::string> names;
  std::size_t num_matched = 0;
  const auto add = [&](eval::Entrant entrant) {
    if (!names.insert(entrant.name).second)
      core::input_error("policies: {} is given twice", entrant.name);
    entrants.push_back(std::move(entrant));
  };
  for (engine::PolicyRun& run : make_runs(specs, models)) {
    if (!targets.empty() && is_to_be_matched(run.spec, targets)) {
      for (const eval::MatchTarget& target : targets) add(eval::Entrant(run, target.name));
      num_matched += targets.size();
    } else {
      add(eval::Entrant(std::move(run)));
    }
  }
  if (!targets.empty() && num_matched == 0) {
    core::input_error(
        "match: none of the policies {} has a budget to be set: add one that takes tokens and has "
        "no budget of its own, such as meanpool@16",
        fmt::join(names, ", "));
  }
  return entrants;
}

std::string find_baseline(const std::string& name, const std::vector<eval::Entrant>& entrants,
                          ModelSet& models) {
  const auto is_there = [&](const std::string& some) {
    return std::ranges::find(entrants, some, &eval::Entrant::name) != entrants.end();
  };
  if (name.empty()) return is_there("full") ? "full" : "";
  if (is_there(name)) return name;
  const std::string canonical = name_in_results(name, models);
  if (is_there(canonical)) return canonical;
  std::vector<std::string> known;
  for (const eval::Entrant& entrant : entrants) known.push_back(entrant.name);
  core::input_error("baseline: {} is not among the policies {}", name, fmt::join(known, ", "));
}

}  // namespace gsa::apps
