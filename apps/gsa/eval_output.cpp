#include "eval_output.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <utility>

#include "eval/metrics.h"
#include "eval/perplexity.h"
#include "eval/task_format.h"
#include "options.h"
#include "table.h"
#include "terminal.h"

namespace gsa::apps {
namespace {

using Json = nlohmann::ordered_json;
using enum Table::Align;

using eval::scale_of;

/// Metric of the first summary of a task.
std::string metric_of(const eval::Findings& findings, const std::string& task) {
  const auto found = std::ranges::find(findings.summaries, task, &eval::Summary::task);
  return found == findings.summaries.end() ? "" : found->metric;
}

std::string format_interval(const eval::Interval& interval, double scale) {
  const int digits = scale == 1 ? 3 : 1;
  if (!std::isfinite(interval.low))
    return fmt::format("{:.{}f} (–)", scale * interval.mean, digits);
  return fmt::format("{:.{}f} ({:.{}f} to {:.{}f})", scale * interval.mean, digits,
                     scale * interval.low, digits, scale * interval.high, digits);
}

Json to_json(const eval::Interval& interval, double scale) {
  return {{"mean", scale * interval.mean},
          {"low", scale * interval.low},
          {"high", scale * interval.high}};
}

std::string adapter_name(const eval::Conditions& conditions) {
  return conditions.adapter.empty() ? "none" : conditions.adapter;
}

std::string scores_table(const eval::Findings& findings,
                         const std::vector<eval::Entrant>& entrants) {
  Table table({{"task", left},
               {"policy", left},
               {"adapter", left},
               {"context read with", left},
               {"query-aware", left},
               {"n", right},
               {"metric", left},
               {"score (95 %)", right},
               {"keys read", right},
               {"tokens", right}});
  for (const eval::Summary& summary : findings.summaries) {
    const auto conditions = eval::conditions_of(entrants, summary.policy);
    table.add_row({summary.task, brief_policy(summary.policy), adapter_name(conditions),
                   conditions.context_read, conditions.is_query_aware ? "yes" : "no",
                   format_count(summary.num_items), summary.metric,
                   format_interval(summary.score, scale_of(summary.metric)),
                   format_percent(summary.fraction_read),
                   fmt::format("{:.0f}", summary.context_tokens)});
  }
  return table.to_string(terminal_width());
}

std::string budgets_table(const eval::Findings& findings,
                          const std::vector<eval::Entrant>& entrants) {
  if (findings.equal_budgets.empty()) return "";
  Table table({{"at an equal budget", left},
               {"adapter", left},
               {"context read with", left},
               {"query-aware", left},
               {"keys read", right},
               {"score (95 %)", right}});
  bool is_any_off = false;
  const auto add_row = [&](const std::string& policy, std::string read, std::string score) {
    const auto conditions = eval::conditions_of(entrants, policy);
    table.add_row({"  " + brief_policy(policy), adapter_name(conditions), conditions.context_read,
                   conditions.is_query_aware ? "yes" : "no", std::move(read), std::move(score)});
  };
  for (const eval::EqualBudget& one : findings.equal_budgets) {
    table.add_heading(fmt::format(
        "{}, as much as {} ({} of the keys): {} items, {} shorter than a policy's floor left out",
        one.task, brief_policy(one.target), format_percent(one.target_fraction), one.num_items,
        one.left_out.size()));
    const double scale = scale_of(metric_of(findings, one.task));
    for (const auto& row : one.rows) {
      is_any_off |= one.is_off(row);
      add_row(row.policy, format_percent(row.fraction_read) + (one.is_off(row) ? " *" : ""),
              format_interval(row.score, scale));
    }
    for (const eval::Matched& matched : one.unmatched)
      add_row(matched.entrant, format_percent(matched.measured), "no budget fits");
  }
  std::string text = "\n" + table.to_string(terminal_width());
  if (is_any_off) {
    text += fmt::format("* reads over {:.0f} % more or less than the target on these items\n",
                        100 * eval::kTolerance);
  }
  return text;
}

std::string comparisons_table(const eval::Findings& findings) {
  if (findings.comparisons.empty()) return "";
  Table table({{"task", left},
               {"policy", left},
               {"against", left},
               {"n", right},
               {"difference (95 %)", right},
               {"p", right},
               {"p (Holm)", right}});
  for (const eval::Comparison& one : findings.comparisons) {
    const std::string metric = metric_of(findings, one.task);
    table.add_row({one.task, brief_policy(one.policy), brief_policy(one.baseline),
                   format_count(one.num_items),
                   format_interval(one.test.difference, scale_of(metric)) +
                       (eval::is_loss(metric) ? " nats" : ""),
                   fmt::format("{:.4f}", one.test.p_value), fmt::format("{:.4f}", one.holm_p)});
  }
  return "\n" + table.to_string(terminal_width());
}

std::string diagnoses_table(const eval::Findings& findings) {
  if (findings.diagnoses.empty()) return "";
  Table table({{"task", left},
               {"policy", left},
               {"n", right},
               {"answer seen", right},
               {"attention recovered", right},
               {"entropy (nats)", right}});
  for (const eval::TaskDiagnosis& one : findings.diagnoses) {
    table.add_row({one.task, brief_policy(one.policy), format_count(one.num_items),
                   format_percent(one.answer_recall), format_percent(one.mass_recovered),
                   fmt::format("{:.2f}", one.choice_entropy)});
  }
  return "\n" + table.to_string(terminal_width());
}

/// How many items of each task were cut; the same for all policies, whoever answered most of them.
std::string truncation_notes(const eval::Findings& findings) {
  std::string notes;
  std::string task;
  for (const eval::Summary& summary : findings.summaries) {
    if (summary.task == task || summary.num_truncated == 0) continue;
    task = summary.task;
    notes += fmt::format("\n{}: {} of {} items were cut in the middle to fit", task,
                         summary.num_truncated, summary.num_items);
  }
  return notes;
}

std::string name_of(const eval::Failure& failure) {
  return failure.item_id.empty() ? failure.task : failure.task + " " + failure.item_id;
}

void add_conditions(Json& row, const eval::Conditions& conditions) {
  row["adapter"] = nullptr;
  if (!conditions.adapter.empty()) row["adapter"] = conditions.adapter;
  row["context_read"] = conditions.context_read;
  row["query_aware"] = conditions.is_query_aware;
}

Json result_json(const eval::Summary& summary, const eval::Conditions& conditions) {
  const double scale = scale_of(summary.metric);
  Json row = {{"task", summary.task},
              {"policy", summary.policy},
              {"score", scale * summary.score.mean},
              {"fraction_read", summary.fraction_read},
              {"n", summary.num_items},
              {"metric", summary.metric},
              {"interval", to_json(summary.score, scale)}};
  add_conditions(row, conditions);
  if (!eval::is_loss(summary.metric)) {
    row["f1"] = to_json(summary.f1, 100);
    row["exact_match"] = to_json(summary.exact_match, 100);
    row["contains"] = to_json(summary.contains, 100);
  }
  row["prefill_fraction"] = summary.prefill_fraction;
  row["context_tokens"] = summary.context_tokens;
  row["answer_tokens"] = summary.answer_tokens;
  row["truncated"] = summary.num_truncated;
  return row;
}

Json budget_json(const eval::EqualBudget& table, const std::vector<eval::Entrant>& entrants,
                 double scale) {
  Json rows = Json::array(), unmatched = Json::array();
  for (const auto& row : table.rows) {
    Json& one = rows.emplace_back(Json{{"policy", row.policy},
                                       {"fraction_read", row.fraction_read},
                                       {"off_target", table.is_off(row)},
                                       {"score", scale * row.score.mean},
                                       {"interval", to_json(row.score, scale)}});
    add_conditions(one, eval::conditions_of(entrants, row.policy));
  }
  for (const eval::Matched& matched : table.unmatched) {
    unmatched.push_back({{"policy", matched.entrant},
                         {"nearest_fraction", matched.measured},
                         {"floor", matched.floor}});
  }
  return {{"task", table.task},
          {"target", table.target},
          {"fraction_wanted", table.wanted},
          {"fraction_target", table.target_fraction},
          {"n", table.num_items},
          {"below_floor", table.left_out.size()},
          {"policies", std::move(rows)},
          {"unmatched", std::move(unmatched)}};
}

/// A format of the catalogue in a line.
struct ListedFormat {
  std::string name, metric, language, source;
  std::int64_t max_tokens = 0;
};

/// Where the prompt of a format was published.
std::string source_of(const std::string& name) {
  const bool is_open = name == "nq" || name == "triviaqa_open";
  return is_open ? "Liu et al. 2023" : "LongBench v1 (Bai et al. 2023)";
}

std::vector<ListedFormat> listed_formats() {
  std::vector<ListedFormat> formats;
  for (const std::string& name : eval::format_names()) {
    const auto format = eval::find_format(name);
    formats.push_back({name, std::string(eval::metric_name(format->metric)), format->language,
                       source_of(name), format->max_tokens});
  }
  return formats;
}

}  // namespace

std::string eval_tables(const eval::Findings& findings,
                        const std::vector<eval::Entrant>& entrants) {
  std::string text = scores_table(findings, entrants) + budgets_table(findings, entrants) +
                     comparisons_table(findings) + diagnoses_table(findings) +
                     truncation_notes(findings);
  for (const std::string& sentence : eval::cautions(findings)) text += "\n" + sentence;
  for (const eval::Failure& failure : findings.failures)
    text += fmt::format("\nskipped {}: {}", name_of(failure), failure.error);
  return text;
}

std::string eval_json(const eval::Findings& findings, const std::vector<eval::Entrant>& entrants,
                      const std::string& model, const std::optional<std::string>& adapters) {
  Json results = Json::array(), budgets = Json::array(), comparisons = Json::array(),
       failures = Json::array();
  for (const eval::Summary& summary : findings.summaries)
    results.push_back(result_json(summary, eval::conditions_of(entrants, summary.policy)));
  for (const eval::EqualBudget& table : findings.equal_budgets)
    budgets.push_back(budget_json(table, entrants, scale_of(metric_of(findings, table.task))));
  for (const eval::Comparison& one : findings.comparisons) {
    const std::string metric = metric_of(findings, one.task);
    comparisons.push_back({{"task", one.task},
                           {"policy", one.policy},
                           {"baseline", one.baseline},
                           {"n", one.num_items},
                           {"difference", to_json(one.test.difference, scale_of(metric))},
                           {"unit", eval::is_loss(metric) ? "nats per token" : "points"},
                           {"p", one.test.p_value},
                           {"p_holm", one.holm_p}});
  }
  Json diagnoses = Json::array();
  for (const eval::TaskDiagnosis& one : findings.diagnoses) {
    diagnoses.push_back({{"task", one.task},
                         {"policy", one.policy},
                         {"n", one.num_items},
                         {"answer_recall", one.answer_recall},
                         {"mass_recovered", one.mass_recovered},
                         {"choice_entropy", one.choice_entropy}});
  }
  for (const eval::Failure& failure : findings.failures)
    failures.push_back({{"task", failure.task}, {"id", failure.item_id}, {"error", failure.error}});
  Json object = {{"model", model}, {"adapter", nullptr}};
  if (adapters) object["adapter"] = *adapters;
  object["results"] = std::move(results);
  object["equal_budgets"] = std::move(budgets);
  object["comparisons"] = std::move(comparisons);
  object["diagnostics"] = std::move(diagnoses);
  object["failures"] = std::move(failures);
  return object.dump(2, ' ', false, Json::error_handler_t::replace);
}

std::string eval_list() {
  Table table({{"format", left},
               {"metric", left},
               {"answer", right},
               {"language", left},
               {"prompt", left}});
  for (const ListedFormat& format : listed_formats()) {
    table.add_row({format.name, format.metric, format_count(format.max_tokens), format.language,
                   format.source});
  }
  return "Formats, as FORMAT=FILE or by the file's name; answers in tokens at most:\n" +
         table.to_string(terminal_width()) +
         "\nGenerated: passkey, needle, kv, lines, perplexity (see gsa eval --help)\n\n" +
         eval::description_help() + "\n" + policy_help();
}

std::string eval_list_json() {
  Json formats = Json::array(), policies = Json::array();
  for (const ListedFormat& format : listed_formats()) {
    formats.push_back({{"format", format.name},
                       {"metric", format.metric},
                       {"max_tokens", format.max_tokens},
                       {"language", format.language},
                       {"prompt", format.source}});
  }
  for (const auto& [name, help] : attention::PolicySpec::known_names())
    policies.push_back({{"policy", name}, {"help", help}});
  return Json{{"formats", std::move(formats)}, {"policies", std::move(policies)}}.dump(2);
}

}  // namespace gsa::apps
