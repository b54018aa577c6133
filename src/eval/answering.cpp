#include "eval/answering.h"

#include <algorithm>
#include <memory>
#include <numeric>
#include <utility>

#include "core/error.h"
#include "engine/memory.h"
#include "eval/perplexity.h"
#include "eval/task_format.h"

namespace gsa::eval {
namespace {

engine::SessionOptions session_options(const Task& task, const AnswerOptions& options) {
  engine::SessionOptions session = options.session;
  session.prompt = task.format.prompt;
  return session;
}

engine::GenerateOptions generate_options(const Task& task, const AnswerOptions& options) {
  engine::GenerateOptions generate = options.generate;
  if (!generate.max_tokens) generate.max_tokens = task.format.max_tokens;
  return generate;
}

/// Tokens of the chat template around a prompt.
std::int64_t count_template(const Task& task, const std::shared_ptr<const model::Model>& model,
                            const AnswerOptions& options) {
  engine::SessionOptions bare = session_options(task, options);
  if (bare.prompt) bare.prompt = engine::PromptFormat{"", "", "", bare.prompt->use_chat_template};
  const engine::Session session(model, attention::PolicySpec::parse("full"), bare);
  return std::ssize(session.tokenize({}).ids) + std::ssize(session.prompt("x"));
}

std::int64_t window_of(const model::Model& model, const AnswerOptions& options) {
  return options.max_context.value_or(model.config().trained_window);
}

/// Cuts an item that does not fit; whether it was too long.
bool fit(const Task& task, TaskItem& item, const std::shared_ptr<const model::Model>& model,
         const AnswerOptions& options) {
  const std::int64_t window = window_of(*model, options);
  // Every document and the question are encoded for themselves, which may take a token more each.
  const std::int64_t num_joints = std::ssize(item.documents) + 1;
  const std::int64_t room = window - *generate_options(task, options).max_tokens -
                            count_template(task, model, options) - num_joints;
  return truncate_middle(item, task.format, model->tokenizer(), room);
}

/// Refuses an item that must not be cut and does not fit with `num_answer` tokens behind its
/// prompt.
void check_fits(const PreparedItem& item, std::int64_t num_answer, std::int64_t window) {
  const std::int64_t num_prompt = std::ssize(item.prompt);
  const std::int64_t num_over = item.num_context() + num_prompt + num_answer - window;
  if (num_over <= 0) return;
  constexpr std::string_view than = "that the model was trained for or that are allowed";
  if (is_perplexity(*item.task)) {
    core::input_error(
        "perplexity: {} tokens and {} to be predicted are more than the {} {}: give shorter "
        "lengths",
        item.num_context(), num_prompt, window, than);
  }
  core::input_error(
      "{} tokens of context, {} of the question and {} for the answer are more than the {} {}: "
      "lower lengths by {} or more, as what is asked and the answer come on top of them",
      item.num_context(), num_prompt, num_answer, window, than, num_over);
}

/// Entrants by number, those whose reading can serve others first: what is observed while a context
/// is read cannot be made up for later, and nobody else minds it.
std::vector<std::size_t> reading_order(std::span<const Entrant> entrants) {
  std::vector<std::size_t> order(entrants.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::ranges::stable_partition(order, [&](std::size_t entrant) {
    return attention::make_policy(entrants[entrant].run.spec)->observes_context();
  });
  return order;
}

/// Items of a task and who is still to answer which.
class Block {
 public:
  Block(std::span<const PreparedItem> items, std::span<const Entrant> entrants,
        std::span<const std::vector<bool>> wanted, const AnswerOptions& options)
      : items_(items),
        entrants_(entrants),
        open_(wanted.begin(), wanted.end()),
        options_(options),
        generate_(generate_options(*items.front().task, options)),
        records_(items.size(), std::vector<Record>(entrants.size())) {}

  std::vector<std::vector<Record>> run() {
    for (const std::size_t reader : reading_order(entrants_)) {
      const auto todo = open_items(reader);
      if (!todo.empty() && !is_cancelled()) run_group(reader, todo);
    }
    for (auto& some : records_)
      std::erase_if(some, [](const Record& record) { return record.row.policy.empty(); });
    return std::move(records_);
  }

 private:
  using Items = std::vector<std::size_t>;

  bool is_cancelled() const { return generate_.cancel.stop_requested(); }
  const Task& task() const { return *items_.front().task; }

  Items open_items(std::size_t entrant) const {
    Items found;
    for (std::size_t i = 0; i < items_.size(); ++i)
      if (open_[i][entrant]) found.push_back(i);
    return found;
  }

  engine::PolicyRun run_of(std::size_t entrant, std::size_t item) const {
    const Entrant& one = entrants_[entrant];
    return {one.run.model, one.spec_for(task().name, items_[item].num_context())};
  }

  /// Reads items as an entrant does, and lets all answer that read them alike.
  void run_group(std::size_t reader, const Items& todo) {
    engine::reset_peak_memory();
    std::vector<std::shared_ptr<const engine::Reading>> readings(items_.size());
    for (const std::size_t i : todo) {
      const auto run = run_of(reader, i);
      readings[i] = engine::Reading::read(run.model, run.spec, items_[i].context,
                                          options_.session.segment_len, options_.on_read);
    }
    for (std::size_t entrant = 0; entrant < entrants_.size() && !is_cancelled(); ++entrant) {
      Items served;
      for (const std::size_t i : open_items(entrant)) {
        const auto run = run_of(entrant, i);
        if (readings[i] && readings[i]->serves(*run.model, run.spec)) served.push_back(i);
      }
      if (!served.empty()) answer(entrant, served, readings);
    }
  }

  void answer(std::size_t entrant, const Items& served,
              std::span<const std::shared_ptr<const engine::Reading>> readings) {
    std::vector<engine::Session> sessions;
    std::vector<std::vector<std::int64_t>> prompts;
    for (const std::size_t i : served) {
      sessions.push_back(make_session(task(), run_of(entrant, i), options_));
      sessions.back().adopt(readings[i]);
      prompts.push_back(items_[i].prompt);
    }
    if (is_perplexity(task())) {
      for (std::size_t at = 0; at < served.size(); ++at)
        keep(entrant, served[at], sessions[at], sessions[at].score_tokens(prompts[at]));
      return;
    }
    const auto answers = engine::ask_together(sessions, prompts, generate_);
    if (is_cancelled()) return;
    for (std::size_t at = 0; at < served.size(); ++at)
      keep(entrant, served[at], sessions[at], answers[at]);
  }

  /// The record of an answer but for what depends on the kind of task.
  Record& begin_record(std::size_t entrant, std::size_t i, const engine::Session& session,
                       const engine::Answer& answer) {
    const TaskItem& item = *items_[i].item;
    Record& record = records_[i][entrant];
    record.task = task().name;
    record.item_id = item.id;
    record.item_digest = item.digest;
    record.row = engine::make_row(session, item.question, answer);
    record.setting = std::exchange(record.row.policy, entrants_[entrant].name);
    record.length = item.length;
    record.depth = item.depth;
    record.is_truncated = items_[i].is_truncated;
    open_[i][entrant] = false;
    return record;
  }

  void keep(std::size_t entrant, std::size_t i, const engine::Session& session,
            const engine::Answer& answer) {
    const TaskItem& item = *items_[i].item;
    Record& record = begin_record(entrant, i, session, answer);
    record.prediction = scored_part(task().format, record.row.answer);
    record.metric = metric_name(task().format.metric);
    record.score = score(task().format.metric, record.prediction, item.answers, item.classes);
    record.secondary = score_qa(record.prediction, item.answers);
  }

  void keep(std::size_t entrant, std::size_t i, const engine::Session& session,
            const engine::Likelihood& likelihood) {
    const auto num_tokens = std::ssize(likelihood.log_probs);
    engine::Answer predicted;
    predicted.num_tokens = num_tokens;
    predicted.fraction_read = likelihood.fraction_read;
    Record& record = begin_record(entrant, i, session, predicted);
    record.metric = kPerplexityName;
    record.score = -std::accumulate(likelihood.log_probs.begin(), likelihood.log_probs.end(), 0.0) /
                   static_cast<double>(num_tokens);
  }

  std::span<const PreparedItem> items_;
  std::span<const Entrant> entrants_;
  std::vector<std::vector<bool>> open_;  // per item and entrant
  const AnswerOptions& options_;
  engine::GenerateOptions generate_;
  std::vector<std::vector<Record>> records_;  // per item and entrant; no policy: no answer yet
};

}  // namespace

bool is_uncut(const Task& task, const TaskItem& item) {
  return is_perplexity(task) || item.depth.has_value();
}

engine::Session make_session(const Task& task, const engine::PolicyRun& run,
                             const AnswerOptions& options) {
  return {run.model, run.spec, session_options(task, options)};
}

PreparedItem prepare_item(const Task& task, const TaskItem& item,
                          const std::shared_ptr<const model::Model>& model,
                          const AnswerOptions& options) {
  PreparedItem prepared{&task, &item, {}, {}, false};
  const auto session = make_session(task, {model, attention::PolicySpec::parse("full")}, options);
  if (is_perplexity(task)) {
    prepared.context = session.tokenize(item.documents);
    const auto ids = model->tokenizer().encode(item.answers.front());
    prepared.prompt.assign(ids.begin(), ids.end());
    check_fits(prepared, 0, window_of(*model, options));
    return prepared;
  }
  const engine::GenerateOptions generate = generate_options(task, options);
  session.check(item.question, generate);
  prepared.prompt = session.prompt(item.question);
  if (is_uncut(task, item)) {
    prepared.context = session.tokenize(item.documents);
    check_fits(prepared, *generate.max_tokens, window_of(*model, options));
    return prepared;
  }
  TaskItem fitting = item;
  prepared.is_truncated = fit(task, fitting, model, options);
  prepared.context = session.tokenize(fitting.documents);
  return prepared;
}

std::vector<std::vector<Record>> answer_items(std::span<const PreparedItem> items,
                                              std::span<const Entrant> entrants,
                                              std::span<const std::vector<bool>> wanted,
                                              const AnswerOptions& options) {
  if (items.empty()) return {};
  return Block(items, entrants, wanted, options).run();
}

}  // namespace gsa::eval
