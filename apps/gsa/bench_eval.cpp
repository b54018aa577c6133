#include "bench_eval.h"

#include <ATen/Parallel.h>
#include <fmt/format.h>

#include <chrono>
#include <nlohmann/json.hpp>
#include <utility>

#include "core/error.h"
#include "core/file.h"
#include "eval/runner.h"
#include "eval/summary.h"
#include "eval/task_list.h"
#include "interrupt.h"
#include "progress.h"
#include "samples.h"
#include "table.h"
#include "terminal.h"

namespace gsa::apps {
namespace {

using Json = nlohmann::ordered_json;

/// All items under one policy.
struct Timing {
  std::string policy;
  Samples seconds_per_item;
  std::int64_t num_items = 0;
  double context_tokens = 0, answer_tokens = 0, fraction_read = 0, score = 0;
};

std::vector<eval::Task> open_tasks(const BenchEvalArgs& args, const text::Tokenizer& tokenizer) {
  std::vector<eval::Task> tasks;
  std::int64_t num_left = args.num_items;
  for (const std::string& spec : eval::split_task_list(args.tasks)) {
    eval::Task task = eval::open_task(spec, tokenizer);
    if (std::ssize(task.items) > num_left) task.items.resize(static_cast<std::size_t>(num_left));
    num_left -= std::ssize(task.items);
    if (!task.items.empty()) tasks.push_back(std::move(task));
  }
  if (tasks.empty()) core::input_error("bench eval: the tasks have no items");
  return tasks;
}

/// A line per item: its tokens as full attention reads them in one go, how many may follow, and
/// which end the answer.
std::string prompt_lines(const std::vector<eval::Task>& tasks,
                         const std::shared_ptr<const model::Model>& model,
                         const eval::AnswerOptions& options) {
  std::string lines;
  for (const eval::Task& task : tasks) {
    for (const eval::TaskItem& item : task.items) {
      eval::PreparedItem prepared = eval::prepare_item(task, item, model, options);
      std::vector<std::int64_t> ids = std::move(prepared.context.ids);
      ids.insert(ids.end(), prepared.prompt.begin(), prepared.prompt.end());
      const Json line = {{"ids", ids},
                         {"max_tokens", task.format.max_tokens},
                         {"ends", model->tokenizer().end_of_turn_ids()}};
      lines += line.dump() + "\n";
    }
  }
  return lines;
}

class Bench {
 public:
  Bench(const BenchEvalArgs& args, const std::vector<eval::Task>& tasks,
        const Interrupt::Work& work)
      : args_(args), tasks_(tasks), work_(work), progress_(!args.is_quiet) {
    options_.answer.session.segment_len = args.segment_len;
    options_.answer.generate.cancel = work.token();
    options_.batch_size = args.batch_size;
    options_.on_item = [this](std::int64_t done, std::int64_t total) {
      progress_.update(done, total);
    };
  }

  const eval::AnswerOptions& answer_options() const { return options_.answer; }

  /// Policies take turns, so that a busy machine disturbs all alike.
  std::vector<Timing> run(const std::vector<engine::PolicyRun>& runs) {
    std::vector<Timing> timings(runs.size());
    for (std::size_t i = 0; i < runs.size(); ++i) warm_up(eval::Entrant(runs[i]));
    for (int rep = 0; rep < args_.num_reps; ++rep)
      for (std::size_t i = 0; i < runs.size(); ++i) time(eval::Entrant(runs[i]), timings[i]);
    progress_.end();
    return timings;
  }

 private:
  void warm_up(const eval::Entrant& entrant) {
    eval::Task task = tasks_.front();
    task.items.resize(1);
    eval::run_tasks({&task, 1}, {&entrant, 1}, options_);
    work_.check();
  }

  void time(const eval::Entrant& entrant, Timing& timing) {
    progress_.begin("eval " + entrant.name, "items");
    const auto start = std::chrono::steady_clock::now();
    const auto result = eval::run_tasks(tasks_, {&entrant, 1}, options_);
    const double seconds =
        std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    work_.check();
    timing.policy = entrant.name;
    timing.num_items = std::ssize(result.records);
    timing.seconds_per_item.values.push_back(seconds / static_cast<double>(timing.num_items));
    const auto mean = [&](auto get) {
      double sum = 0;
      for (const eval::Record& record : result.records) sum += static_cast<double>(get(record));
      return sum / static_cast<double>(timing.num_items);
    };
    timing.context_tokens = mean([](const eval::Record& r) { return r.row.context_tokens; });
    timing.answer_tokens = mean([](const eval::Record& r) { return r.row.answer_tokens; });
    timing.fraction_read = mean([](const eval::Record& r) { return r.row.fraction_read; });
    timing.score = mean([](const eval::Record& r) { return r.score; });
  }

  const BenchEvalArgs& args_;
  const std::vector<eval::Task>& tasks_;
  const Interrupt::Work& work_;
  ProgressBar progress_;
  eval::RunOptions options_;
};

std::string to_json(const BenchEvalArgs& args, const model::Model& model,
                    const std::vector<Timing>& timings) {
  Json results = Json::array();
  for (const Timing& timing : timings) {
    results.push_back({{"policy", timing.policy},
                       {"items", timing.num_items},
                       {"seconds_per_item", timing.seconds_per_item.median()},
                       {"seconds_per_item_min", timing.seconds_per_item.min()},
                       {"seconds_per_item_max", timing.seconds_per_item.max()},
                       {"context_tokens", timing.context_tokens},
                       {"answer_tokens", timing.answer_tokens},
                       {"fraction_read", timing.fraction_read},
                       {"score", 100 * timing.score},
                       {"reps", args.num_reps}});
  }
  const Json object = {{"task", "eval"},
                       {"model", args.model.model},
                       {"dtype", model::dtype_name(model.dtype())},
                       {"device", model.device().str()},
                       {"threads", at::get_num_threads()},
                       {"results", std::move(results)}};
  return object.dump(2, ' ', false, Json::error_handler_t::replace);
}

std::string to_table(const std::vector<Timing>& timings) {
  using enum Table::Align;
  Table table({{"policy", left},
               {"items", right},
               {"s/item", right},
               {"min", right},
               {"max", right},
               {"context", right},
               {"answer", right},
               {"keys read", right}});
  for (const Timing& timing : timings) {
    const Samples& seconds = timing.seconds_per_item;
    table.add_row(
        {timing.policy, format_count(timing.num_items), fmt::format("{:.3f}", seconds.median()),
         fmt::format("{:.3f}", seconds.min()), fmt::format("{:.3f}", seconds.max()),
         fmt::format("{:.0f}", timing.context_tokens), fmt::format("{:.1f}", timing.answer_tokens),
         format_percent(timing.fraction_read)});
  }
  return table.to_string(terminal_width());
}

}  // namespace

int run_bench_eval(const BenchEvalArgs& args) {
  for (const std::string& spec : eval::split_task_list(args.tasks)) eval::check_task(spec);
  Interrupt interrupt;
  ModelSet models = ModelSet::load(args.model);
  const auto tasks = open_tasks(args, models.base()->tokenizer());
  const Interrupt::Work work(interrupt);
  Bench bench(args, tasks, work);
  if (!args.prompts_file.empty()) {
    core::write_file_atomic(args.prompts_file,
                            prompt_lines(tasks, models.base(), bench.answer_options()));
  }
  const auto timings = bench.run(make_runs(args.policies, models));
  if (args.is_json) {
    fmt::print("{}\n", to_json(args, *models.base(), timings));
  } else {
    fmt::print("eval of {}, {} threads\n{}", args.model.model, at::get_num_threads(),
               to_table(timings));
  }
  return 0;
}

}  // namespace gsa::apps
