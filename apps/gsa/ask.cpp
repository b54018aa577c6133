#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "command.h"
#include "core/error.h"
#include "documents.h"
#include "engine/compare.h"
#include "engine/memory.h"
#include "engine/session.h"
#include "interrupt.h"
#include "options.h"
#include "progress.h"
#include "table.h"
#include "terminal.h"

namespace gsa::apps {
namespace {

constexpr const char* examples = R"(
Examples:
  gsa ask --model smollm2 --doc book.txt --question 'Who is Tom?'
  gsa ask --model smollm2 --doc a.md --doc b.md --question 'What changed?' --policy full
  man bash | gsa ask --model smollm2 --doc - --question 'What does pipefail do?'
  gsa ask --model smollm2 --doc book.txt --question 'Who is Tom?' \
      --compare full,gsa@16,meanpool@16:tokens=1024,streaming --json

The answer goes to standard output, everything else to standard error.
Exit codes: 0 done, 1 failure, 2 usage or bad input, 130 interrupted.
)";

struct AskArgs {
  ModelArgs model;
  SessionArgs session;
  engine::GenerateOptions generate;
  std::vector<std::string> documents;
  std::vector<std::string> questions;
  std::optional<std::string> policy;
  std::optional<std::string> compared;
  bool is_json = false;
  bool is_quiet = false;
};

/// What an answer took, in one line.
std::string summary(const engine::ResultRow& row) {
  const std::string nominal =
      row.nominal_ratio > 1 ? fmt::format("nominally 1/{}, ", row.nominal_ratio) : "";
  return fmt::format(
      "{}: read {} tokens in {:.1f} s with {} of full attention's key reads, {} tokens of answer "
      "at "
      "{:.1f} ms each, {} of the keys read ({}{} per token), peak memory {}",
      brief_policy(row.policy), format_count(row.context_tokens), row.prefill_seconds,
      format_percent(row.prefill_fraction), row.answer_tokens, row.decode_ms_per_token,
      format_percent(row.fraction_read), nominal, format_bytes(row.kv_bytes_per_token),
      format_bytes(static_cast<double>(row.peak_memory_bytes)));
}

/// The answers of a comparison, one block per question; rows are policy by policy.
std::string comparison_table(const std::vector<std::string>& questions,
                             const std::vector<engine::ResultRow>& rows, std::size_t width) {
  using enum Table::Align;
  Table table({{"policy", left},
               {"tokens read", right},
               {"prefill s", right},
               {"ms/token", right},
               {"keys read", right},
               {"KV/token", right},
               {"peak memory", right},
               {"answer", left}});
  for (std::size_t i = 0; i < questions.size(); ++i) {
    table.add_heading((i == 0 ? "" : "\n") + without_control_characters(questions[i]));
    for (std::size_t j = i; j < rows.size(); j += questions.size()) {
      const engine::ResultRow& row = rows[j];
      table.add_row({brief_policy(row.policy), format_count(row.context_tokens),
                     fmt::format("{:.1f}", row.prefill_seconds),
                     fmt::format("{:.1f}", row.decode_ms_per_token),
                     format_percent(row.fraction_read), format_bytes(row.kv_bytes_per_token),
                     format_bytes(static_cast<double>(row.peak_memory_bytes)),
                     without_control_characters(row.answer)});
    }
  }
  return table.to_string(width);
}

std::string to_json(const AskArgs& args, const ModelSet& models,
                    const std::vector<engine::ResultRow>& rows) {
  nlohmann::ordered_json results = nlohmann::ordered_json::array();
  for (const engine::ResultRow& row : rows)
    results.push_back(nlohmann::ordered_json::parse(engine::to_json(row)));
  nlohmann::ordered_json object = {{"model", args.model.model}, {"adapter", nullptr}};
  if (const auto names = models.adapter_names()) object["adapter"] = *names;
  object["results"] = std::move(results);
  return object.dump(2, ' ', false, nlohmann::json::error_handler_t::replace);
}

/// Everything that a run needs, checked as far as possible before the model is loaded.
struct Job {
  std::vector<attention::PolicySpec> specs;
  std::vector<std::string> documents;
  std::vector<std::string> questions;
};

Job prepare(const AskArgs& args) {
  args.generate.sampling.validate();
  Job job;
  if (args.compared) {
    job.specs = parse_policies(*args.compared);
  } else {
    job.specs = {parse_policy(args.policy.value_or(default_policy(args.model)))};
  }
  job.documents = read_documents(args.documents);
  for (const std::string& question : args.questions)
    job.questions.push_back(valid_argument(question, "--question"));
  return job;
}

/// Several policies, or one whose result is wanted as JSON: answers are shown when all are there.
int run_comparison(const AskArgs& args, const Job& job, ModelSet& models,
                   const std::vector<engine::PolicyRun>& runs, Interrupt& interrupt) {
  const Interrupt::Work work(interrupt);
  ProgressBar progress(!args.is_quiet);
  engine::CompareOptions options;
  options.session = make_session_options(args.session);
  options.generate = args.generate;
  options.generate.cancel = work.token();
  std::size_t num_answers = 0;
  options.on_policy = [&](const std::string& policy) { progress.begin(brief_policy(policy)); };
  options.on_read = [&](std::int64_t done, std::int64_t total) {
    work.check();
    progress.update(done, total);
  };
  options.on_row = [&](const engine::ResultRow& row) {
    progress.begin(fmt::format("{}: {} of {} answers", brief_policy(row.policy), ++num_answers,
                               runs.size() * job.questions.size()));
  };
  const auto rows = engine::compare(runs, job.documents, job.questions, options);
  progress.end();
  work.check();
  if (args.is_json) {
    fmt::print("{}\n", to_json(args, models, rows));
  } else {
    fmt::print("{}", comparison_table(job.questions, rows, terminal_width()));
  }
  return 0;
}

/// One policy: the answers appear as they are generated.
int run_streaming(const AskArgs& args, const Job& job, const engine::PolicyRun& run,
                  Interrupt& interrupt) {
  const Interrupt::Work work(interrupt);
  engine::Session session(run.model, run.spec, make_session_options(args.session));
  engine::GenerateOptions generate = args.generate;
  generate.cancel = work.token();
  for (const std::string& question : job.questions) session.check(question, generate);

  engine::reset_peak_memory();
  read_with_progress(session, job.documents, brief_policy(run.spec.to_string()), work,
                     !args.is_quiet);
  generate.on_token = [](std::string_view text) {
    fmt::print("{}", text);
    std::fflush(stdout);
  };
  for (const std::string& question : job.questions) {
    if (job.questions.size() > 1) fmt::print("> {}\n", question);
    const engine::Answer answer = session.ask(question, generate);
    fmt::print("\n");
    std::fflush(stdout);
    work.check();
    if (!args.is_quiet) print_note(summary(engine::make_row(session, question, answer)));
  }
  return 0;
}

int run_ask(const AskArgs& args) {
  const Job job = prepare(args);
  Interrupt interrupt;
  ModelSet models = ModelSet::load(args.model);
  const auto runs = make_runs(job.specs, models);
  if (!args.is_quiet) note_untrained_gists(runs);
  if (args.is_json || args.compared) return run_comparison(args, job, models, runs, interrupt);
  return run_streaming(args, job, runs.front(), interrupt);
}

}  // namespace

Command add_ask(CLI::App& app) {
  auto args = std::make_shared<AskArgs>();
  app.add_option("--doc,-d", args->documents, "text to read, - for standard input; repeatable")
      ->required()
      ->allow_extra_args(false);
  app.add_option("--question,-q", args->questions, "repeatable: all on one reading of the text")
      ->required()
      ->allow_extra_args(false);
  auto* policy = app.add_option_function<std::string>(
      "--policy,-p", [args](const std::string& text) { args->policy = text; },
      "what an answer may read (default: gsa with an adapter, else meanpool)");
  app.add_option_function<std::string>(
         "--compare", [args](const std::string& text) { args->compared = text; },
         "policies, separated by commas: one table of all")
      ->excludes(policy);
  app.add_flag("--json", args->is_json, "one JSON object on standard output");
  app.add_flag("--quiet", args->is_quiet, "nothing but answers, warnings and errors");
  add_model_options(app, args->model);
  add_generate_options(app, args->generate);
  add_session_options(app, args->session);
  app.footer(policy_help() + examples);
  return [args] { return run_ask(*args); };
}

}  // namespace gsa::apps
