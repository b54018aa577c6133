#include <ATen/Parallel.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <fmt/chrono.h>
#include <fmt/ranges.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <ctime>
#include <filesystem>
#include <iterator>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "command.h"
#include "core/error.h"
#include "core/file.h"
#include "eval/findings.h"
#include "eval/heartbeat.h"
#include "eval/report.h"
#include "eval/runner.h"
#include "eval/task_list.h"
#include "eval_args.h"
#include "eval_notes.h"
#include "eval_output.h"
#include "find_model.h"
#include "gsa/version.h"
#include "interrupt.h"
#include "progress.h"
#include "terminal.h"
#include "text/sha256.h"
#include "train/communicator.h"

namespace gsa::apps {
namespace {

/// Items of a run: those that are scored, and those that budgets are set on.
struct TaskSet {
  std::vector<eval::Task> scored;
  std::vector<eval::Task> calibration;
  std::vector<eval::Failure> failures;  ///< lines that are no item
};

std::string digest_of(std::string_view bytes) {
  text::Sha256 digest;
  digest.update(bytes);
  return digest.finish();
}

/// Splits a task's items: some for budgets, spread evenly, as generated tasks go by length; of the
/// others as many as are to be scored.
void split_items(eval::Task task, const EvalArgs& args, TaskSet& tasks) {
  if (!args.match.empty()) {
    const auto num_items = static_cast<std::int64_t>(task.items.size());
    const std::int64_t num_set_apart = args.calibration_items;
    if (num_items <= num_set_apart) {
      core::input_error(
          "eval: task {} has {} item{}, and --calibration-items {} leaves none to score: lower it",
          task.name, num_items, num_items == 1 ? "" : "s", num_set_apart);
    }
    eval::Task calibration{task.name, task.format, {}}, scored{task.name, task.format, {}};
    std::int64_t num_found = 0;
    for (std::int64_t i = 0; i < num_items; ++i) {
      // The middle of each of `num_set_apart` equal stretches.
      const bool is_set_apart = i == (2 * num_found + 1) * num_items / (2 * num_set_apart);
      num_found += is_set_apart;
      (is_set_apart ? calibration : scored).items.push_back(std::move(task.items[i]));
    }
    tasks.calibration.push_back(std::move(calibration));
    task = std::move(scored);
  }
  if (args.limit > 0 && std::ssize(task.items) > args.limit)
    task.items.resize(static_cast<std::size_t>(args.limit));
  tasks.scored.push_back(std::move(task));
}

TaskSet open_tasks(const EvalArgs& args, const text::Tokenizer& tokenizer) {
  TaskSet tasks;
  for (const std::string& spec : eval::split_task_list(args.tasks)) {
    eval::ReadTaskOptions options;
    if (args.keeps_going) {
      options.on_bad_line = [&](const Error& error) {
        tasks.failures.push_back({spec, "", error.what()});
      };
    }
    eval::Task task = eval::open_task(spec, tokenizer, options);
    if (std::ranges::find(tasks.scored, task.name, &eval::Task::name) != tasks.scored.end())
      core::input_error("eval: two tasks are named '{}': rename a file", task.name);
    split_items(std::move(task), args, tasks);
  }
  return tasks;
}

/// Prompt and metric of a task, which records depend on.
std::string describe(const eval::Task& task) {
  const eval::TaskFormat& format = task.format;
  std::string text = fmt::format("{} {} {} {}", task.name, eval::metric_name(format.metric),
                                 format.max_tokens, format.first_line);
  if (format.prompt) {
    text += fmt::format(" {}|{}|{} {}", format.prompt->before, format.prompt->before_question,
                        format.prompt->after_question, format.prompt->use_chat_template);
  }
  if (format.numbers_documents) text += " numbered";
  return digest_of(text).substr(0, 16);
}

/// Everything on which a record depends besides its item and its policy.
std::string run_name(const EvalArgs& args, const ModelSet& models, const TaskSet& tasks) {
  std::vector<std::string> adapters, formats;
  for (const std::string& name : args.model.adapters)
    adapters.push_back(digest_of(core::read_file(find_adapter(name))));
  for (const eval::Task& task : tasks.scored) formats.push_back(describe(task));
  const engine::SamplingOptions& sampling = args.generate.sampling;
  const std::string budgets = args.match.empty() ? ""
                                                 : fmt::format(", budgets as {} on {} items",
                                                               args.match, args.calibration_items);
  return fmt::format(
      "{} {} {}, adapters [{}], tasks [{}]{}, template '{}', system prompt '{}', thinking {}, "
      "online gisting {}, at most {} tokens in {}, stop {}, temperature {}, top-k {}, top-p {}, "
      "min-p {}, repetition penalty {}, seed {}",
      find_model(args.model.model).filename().string(), models.base()->fingerprint(),
      args.model.dtype, fmt::join(adapters, ", "), fmt::join(formats, ", "), budgets,
      args.session.chat_template, args.session.system_prompt.value_or("(the model's)"),
      args.session.thinking, args.session.no_online_gisting ? "off" : "on",
      args.generate.max_tokens.value_or(0), args.max_context.value_or(0), args.generate.stop,
      sampling.temperature, sampling.top_k, sampling.top_p, sampling.min_p,
      sampling.repetition_penalty, sampling.seed);
}

/// Several processes of a machine share its GPUs.
void choose_gpu(const train::Launch& launch, ModelArgs& model) {
  const at::Device device = model::parse_device(model.device);
  if (!device.is_cuda() || device.has_index() || launch.size == 1) return;
  const int num_devices = std::max(1, static_cast<int>(at::detail::getCUDAHooks().deviceCount()));
  model.device = fmt::format("cuda:{}", launch.local_rank % num_devices);
}

/// A word as a shell takes it.
std::string shell_quoted(const std::string& word) {
  constexpr std::string_view plain =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_@%+=:,./-";
  if (!word.empty() && word.find_first_not_of(plain) == std::string::npos) return word;
  std::string quoted = "'";
  for (const char c : word) {
    if (c == '\'') {
      quoted += "'\\''";
    } else {
      quoted += c;
    }
  }
  return quoted + "'";
}

/// The options that were given, as a command that makes the same report.
std::string command_line(const CLI::App& app) {
  std::string command = "gsa " + app.get_name();
  for (const CLI::Option* option : app.get_options()) {
    for (const std::string& value : option->results()) {
      command += ' ' + option->get_name();
      if (option->get_expected_max() > 0 && option->get_type_size() > 0)
        command += ' ' + shell_quoted(value);
    }
  }
  return command;
}

/// One evaluation from tasks to findings.
class Evaluation {
 public:
  Evaluation(const EvalArgs& args, const CLI::App& app, const train::Launch& launch,
             const std::vector<attention::PolicySpec>& specs,
             std::vector<eval::MatchTarget> targets)
      : args_(args),
        app_(app),
        launch_(launch),
        models_(ModelSet::load(args.model)),
        targets_(std::move(targets)),
        entrants_(make_entrants(specs, targets_, models_)),
        baseline_(find_baseline(args.baseline, entrants_, models_)),
        tasks_(open_tasks(args, models_.base()->tokenizer())),
        is_talking_(!args.is_quiet && launch.rank == 0),
        progress_(is_talking_, ProgressBar::Elsewhere::writes_lines) {}

  int run(Interrupt& interrupt) {
    note_gists();
    say(short_answers_note(tasks_.scored, args_.generate.max_tokens));
    const Interrupt::Work work(interrupt);
    eval::RunOptions options = run_options(work);
    if (!targets_.empty() && !args_.keeps_going && !args_.only_finished) {
      eval::check_lengths(tasks_.calibration, entrants_, options.answer);
      eval::check_lengths(tasks_.scored, entrants_, options.answer);
    }
    const auto matched = find_budgets(options.answer, options.run_name, work);
    progress_.begin("eval", "items");
    auto result = args_.only_finished ? eval::finished_items(tasks_.scored, entrants_, options)
                                      : eval::run_tasks(tasks_.scored, entrants_, options);
    work.check();
    if (launch_.size > 1 && launch_.rank == 0)
      result = eval::collect(tasks_.scored, entrants_, options);
    progress_.end();
    work.check();
    if (result.records.empty() && args_.only_finished)
      core::input_error("eval: {} holds no item that all policies have answered", args_.records);
    if (args_.only_finished) partial_note_ = partial_note(result.finished);
    say(partial_note_);
    result.failures.insert(result.failures.begin(), tasks_.failures.begin(), tasks_.failures.end());
    if (launch_.rank == 0) {
      auto findings = eval::find(result, matched, baseline_);
      findings.diagnoses = diagnose(options.answer);
      findings.wants_diagnoses = args_.num_diagnosed > 0;
      work.check();
      present(findings);
    }
    return result.failures.empty() ? 0 : exit_failure;
  }

 private:
  void note_gists() const {
    if (!is_talking_) return;
    std::vector<engine::PolicyRun> runs;
    for (const eval::Entrant& entrant : entrants_) runs.push_back(entrant.run);
    note_untrained_gists(runs);
  }

  void say(const std::string& note) const {
    if (is_talking_ && !note.empty()) print_note("eval: " + note);
  }

  eval::RunOptions run_options(const Interrupt::Work& work) {
    eval::RunOptions options;
    options.answer.session = make_session_options(args_.session);
    options.answer.generate = args_.generate;
    options.answer.generate.cancel = work.token();
    options.answer.max_context = args_.max_context;
    options.answer.on_read = [&work](std::int64_t, std::int64_t) { work.check(); };
    options.num_workers = args_.num_workers;
    options.batch_size = args_.batch_size;
    options.on_failure = args_.keeps_going ? eval::OnFailure::skip : eval::OnFailure::stop;
    options.records_file = args_.records;
    options.run_name = run_name(args_, models_, tasks_);
    options.share = {launch_.rank, launch_.size};
    options.on_item = [this](std::int64_t done, std::int64_t total) {
      progress_.update(done, total);
    };
    options.on_wait = [this](std::int64_t missing, std::int64_t total) {
      say(waiting_note(missing, total, args_.records));
    };
    return options;
  }

  /// Budgets of matched policies: those kept beside the records, or measured now. Several processes
  /// share the tasks.
  std::vector<eval::Matched> find_budgets(const eval::AnswerOptions& options,
                                          const std::string& name, const Interrupt::Work& work) {
    if (targets_.empty()) return {};
    const std::int64_t num_tasks = std::ssize(tasks_.calibration);
    std::vector<std::vector<eval::Matched>> found(tasks_.calibration.size());
    progress_.begin("budgets", "tasks");
    for (std::int64_t i = launch_.rank; i < num_tasks; i += launch_.size) {
      found[i] = find_task_budgets(options, name, i, work);
      progress_.update(std::min(num_tasks, i + launch_.size), num_tasks);
    }
    std::vector<eval::Matched> matched;
    for (std::int64_t i = 0; i < num_tasks; ++i) {
      if (i % launch_.size != launch_.rank) found[i] = wait_for_budgets(name, i, work);
      std::ranges::move(eval::budgets_of(entrants_, found[i]), std::back_inserter(matched));
    }
    progress_.end();
    eval::set_budgets(matched, entrants_);
    return matched;
  }

  /// Budgets on a task, perhaps of more than the entrants: only what is not kept is measured.
  std::vector<eval::Matched> find_task_budgets(const eval::AnswerOptions& options,
                                               const std::string& name, std::int64_t task_idx,
                                               const Interrupt::Work& work) {
    const eval::Task& items = tasks_.calibration[task_idx];
    const std::string file = budgets_file(task_idx, "json");
    auto found = eval::read_matched(name, items, file);
    const auto missing = eval::without_budget(entrants_, found);
    if (missing.empty()) return found;
    if (args_.only_finished) {
      core::input_error("eval: {} holds no budget of {}: the run has yet to set it", file,
                        missing.front().name);
    }
    eval::Heartbeat heartbeat(launch_.size > 1 ? budgets_file(task_idx, "part") : "");
    eval::AnswerOptions measuring = options;
    measuring.on_read = [&](std::int64_t num_read, std::int64_t num_total) {
      heartbeat.beat();
      options.on_read(num_read, num_total);
    };
    std::ranges::move(eval::calibrate(items, targets_, missing, measuring),
                      std::back_inserter(found));
    work.check();
    if (!file.empty()) eval::write_matched(found, name, items, file);
    return found;
  }

  /// Empty without a file of records.
  std::string budgets_file(std::int64_t task_idx, std::string_view ending) const {
    return args_.records.empty() ? ""
                                 : fmt::format("{}.budgets{}.{}", args_.records, task_idx, ending);
  }

  /// Budgets of a task that another process measures.
  std::vector<eval::Matched> wait_for_budgets(const std::string& name, std::int64_t task_idx,
                                              const Interrupt::Work& work) const {
    constexpr std::chrono::minutes patience{30};
    constexpr std::chrono::milliseconds poll_interval{200};
    const std::string file = budgets_file(task_idx, "json");
    eval::Watch watch(args_.records + ".budgets", patience);
    while (true) {
      auto found = eval::read_matched(name, tasks_.calibration[task_idx], file);
      if (eval::without_budget(entrants_, found).empty()) return found;
      work.check();
      if (watch.is_over()) {
        core::resource_error(
            "eval: {} is missing and no other process has written budgets for {} minutes: start "
            "again, with a launcher or without",
            file, patience.count());
      }
      std::this_thread::sleep_for(poll_interval);
    }
  }

  std::vector<eval::TaskDiagnosis> diagnose(const eval::AnswerOptions& options) {
    std::vector<eval::TaskDiagnosis> all;
    if (args_.num_diagnosed == 0) return all;
    progress_.begin("diagnostics", "tasks");
    for (std::size_t i = 0; i < tasks_.scored.size(); ++i) {
      auto some = eval::diagnose_task(tasks_.scored[i], entrants_, args_.num_diagnosed, options);
      std::ranges::move(some, std::back_inserter(all));
      progress_.update(static_cast<std::int64_t>(i) + 1, std::ssize(tasks_.scored));
    }
    progress_.end();
    return all;
  }

  std::vector<std::pair<std::string, std::string>> report_facts() const {
    std::vector<std::string> adapters;
    for (const std::string& name : args_.model.adapters)
      adapters.push_back(find_adapter(name).filename().string());
    const model::Model& base = *models_.base();
    return {{"Adapters", adapters.empty() ? "none" : fmt::format("{}", fmt::join(adapters, ", "))},
            {"Computed in",
             fmt::format("{} on {}", model::dtype_name(base.dtype()), base.device().str())},
            {"Version", fmt::format("gsa {}", version())}};
  }

  void present(const eval::Findings& findings) const {
    for (const std::string& path : args_.reports) {
      const std::string title = fmt::format("Evaluation of {}", args_.model.model);
      const std::string date = fmt::format("{:%Y-%m-%d}", fmt::gmtime(std::time(nullptr)));
      auto report = eval::make_report(findings, entrants_,
                                      {title, find_model(args_.model.model).filename().string(),
                                       command_line(app_), date, report_facts()});
      if (!partial_note_.empty())
        report.notes.insert(report.notes.begin(), "Not the whole run: " + partial_note_ + ".");
      eval::write_report(report, path);
    }
    fmt::print("{}\n", args_.is_json ? eval_json(findings, entrants_, args_.model.model,
                                                 models_.adapter_names())
                                     : eval_tables(findings, entrants_));
  }

  const EvalArgs& args_;
  const CLI::App& app_;
  const train::Launch& launch_;
  ModelSet models_;
  std::vector<eval::MatchTarget> targets_;
  std::vector<eval::Entrant> entrants_;
  std::string baseline_;
  TaskSet tasks_;
  std::string partial_note_;  ///< of a report before the run's end
  bool is_talking_;
  ProgressBar progress_;
};

int run_eval(EvalArgs args, const CLI::App& app) {
  if (args.lists) {
    fmt::print("{}\n", args.is_json ? eval_list_json() : eval_list());
    return 0;
  }
  const auto launch = train::Launch::from_environment();
  check_eval_args(args, launch.size);
  const auto specs = parse_policies(args.policies);
  auto targets = parse_targets(args.match);
  choose_gpu(launch, args.model);
  Interrupt interrupt;
  if (args.num_workers > 1 && args.model.num_threads == 0) args.model.num_threads = 1;
  Evaluation evaluation(args, app, launch, specs, std::move(targets));
  try {
    return evaluation.run(interrupt);
  } catch (const Interrupted&) {
    if (!args.is_quiet && !args.only_finished && launch.rank == 0)
      print_note("eval: " + stop_note(args.records, launch.size));
    throw;
  }
}

}  // namespace

Command add_eval(CLI::App& app) {
  auto args = std::make_shared<EvalArgs>();
  add_eval_options(app, *args);
  return [args, &app] { return run_eval(*args, app); };
}

}  // namespace gsa::apps
