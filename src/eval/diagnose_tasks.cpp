#include "eval/diagnose_tasks.h"

#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <utility>

#include "core/error.h"
#include "eval/diagnostics.h"
#include "eval/perplexity.h"

namespace gsa::eval {
namespace {

double mean_entropy(const Diagnosis& diagnosis) {
  double sum = 0, count = 0;
  for (const LayerDiagnosis& layer : diagnosis.layers) {
    if (!layer.selects) continue;
    sum += layer.choice_entropy;
    ++count;
  }
  return count == 0 ? 0 : sum / count;
}

/// Places of the first answer that stands in the context.
std::vector<attention::Range> find_any(const engine::Session& session,
                                       const std::vector<std::string>& answers) {
  for (const std::string& answer : answers)
    if (auto found = find_answer(session, answer); !found.empty()) return found;
  return {};
}

/// Whether an answer may stand in the documents; spares reading those of which it is certain.
bool may_be_found(const TaskItem& item) {
  const auto equal = [](char a, char b) {
    const auto lower = [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c; };
    return lower(a) == lower(b);
  };
  return std::ranges::any_of(item.answers, [&](const std::string& answer) {
    return std::ranges::any_of(item.documents, [&](const std::string& document) {
      return !std::ranges::search(document, answer, equal).empty();
    });
  });
}

/// One policy on one task.
class Diagnosing {
 public:
  Diagnosing(const Task& task, const Entrant& entrant, const AnswerOptions& options)
      : task_(task), entrant_(entrant), options_(options) {}

  /// False if the answer does not stand in the context. `reading` is that of the policy before,
  /// which often reads alike.
  bool add(const PreparedItem& item, std::shared_ptr<const engine::Reading>& reading) {
    const engine::PolicyRun run{entrant_.run.model,
                                entrant_.spec_for(task_.name, item.num_context())};
    auto session = make_session(task_, run, options_);
    if (!reading || !reading->serves(*run.model, run.spec)) {
      reading = engine::Reading::read(run.model, run.spec, item.context,
                                      options_.session.segment_len, options_.on_read);
    }
    session.adopt(reading);
    const auto answer = find_any(session, item.item->answers);
    if (answer.empty()) return false;
    diagnoses_.push_back(diagnose_tokens(session, item.prompt, answer));
    diagnoses_.back().policy = entrant_.name;
    return true;
  }

  TaskDiagnosis result() const {
    TaskDiagnosis result{task_.name, entrant_.name, std::ssize(diagnoses_), 0, 0, 0, {}};
    const auto count = static_cast<double>(diagnoses_.size());
    for (const Diagnosis& one : diagnoses_) {
      result.answer_recall += one.mean_answer_recall() / count;
      result.mass_recovered += one.mean_mass_recovered() / count;
      result.choice_entropy += mean_entropy(one) / count;
    }
    result.grids = heat_maps(diagnoses_);
    for (HeatMap& map : result.grids) map.title = fmt::format("{}, {}", task_.name, map.title);
    return result;
  }

 private:
  const Task& task_;
  const Entrant& entrant_;
  const AnswerOptions& options_;
  std::vector<Diagnosis> diagnoses_;
};

}  // namespace

std::vector<TaskDiagnosis> diagnose_task(const Task& task, std::span<const Entrant> entrants,
                                         std::int64_t num_items, const AnswerOptions& options) {
  if (is_perplexity(task)) return {};
  std::vector<Diagnosing> all;
  for (const Entrant& entrant : entrants)
    if (entrant.plays(task.name)) all.emplace_back(task, entrant, options);
  if (all.empty()) return {};
  std::int64_t num_done = 0;
  for (const TaskItem& item : task.items) {
    if (num_done == num_items) break;
    if (!may_be_found(item)) continue;
    std::shared_ptr<const engine::Reading> reading;
    bool is_known = true;
    try {
      const auto prepared = prepare_item(task, item, entrants.front().run.model, options);
      for (std::size_t i = 0; i < all.size() && is_known; ++i)
        is_known = all[i].add(prepared, reading);
    } catch (const Error& error) {
      if (error.kind() != ErrorKind::input) throw;
      continue;  // the run has named it already
    }
    num_done += is_known;
  }
  std::vector<TaskDiagnosis> results;
  for (const Diagnosing& one : all)
    if (num_done > 0) results.push_back(one.result());
  return results;
}

}  // namespace gsa::eval
