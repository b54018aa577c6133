#include "eval/findings.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <set>
#include <tuple>
#include <utility>

#include "eval/metrics.h"
#include "eval/perplexity.h"

namespace gsa::eval {
namespace {

Interval scaled(const Interval& interval, double factor) {
  return {factor * interval.mean, factor * interval.low, factor * interval.high};
}

/// Whether a metric's answers are so short that measures of words and spans tell more of them.
bool has_short_answers(std::string_view metric) {
  for (const Metric one : {Metric::rouge_l, Metric::rouge_l_zh, Metric::code_similarity})
    if (metric == metric_name(one)) return false;
  return !is_loss(metric);
}

ReportRow make_row(const Summary& summary, const Conditions& conditions) {
  ReportRow row;
  row.task = summary.task;
  row.policy = summary.policy;
  row.adapter = conditions.adapter;
  row.context_read = conditions.context_read;
  row.is_query_aware = conditions.is_query_aware;
  row.num_items = summary.num_items;
  row.metric = summary.metric;
  row.score = scaled(summary.score, scale_of(summary.metric));
  if (is_loss(summary.metric)) row.kind = ScoreKind::perplexity;
  if (has_short_answers(summary.metric)) {
    row.secondary = {{"f1", 100 * summary.f1.mean},
                     {"exact_match", 100 * summary.exact_match.mean},
                     {"contains", 100 * summary.contains.mean}};
  }
  row.nominal_ratio = summary.nominal_ratio;
  row.fraction_read = summary.fraction_read;
  row.prefill_fraction = summary.prefill_fraction;
  row.context_tokens = summary.context_tokens;
  row.answer_tokens = summary.answer_tokens;
  row.prefill_seconds = summary.prefill_seconds;
  if (row.kind == ScoreKind::points) {
    row.decode_ms_per_token = summary.decode_ms_per_token;
    row.kv_bytes_per_token = summary.kv_bytes_per_token;
  }
  if (summary.peak_memory_bytes > 0) row.peak_memory_bytes = summary.peak_memory_bytes;
  row.num_truncated = summary.num_truncated;
  return row;
}

const Entrant* find_entrant(std::span<const Entrant> entrants, const std::string& name) {
  const auto found = std::ranges::find(entrants, name, &Entrant::name);
  return found == entrants.end() ? nullptr : &*found;
}

std::int64_t count_left_out(const Findings& findings, const std::string& task,
                            const std::string& target) {
  for (const EqualBudget& table : findings.equal_budgets)
    if (table.task == task && table.target == target) return std::ssize(table.left_out);
  return 0;
}

BudgetMember make_member(std::span<const Entrant> entrants, const std::string& policy,
                         double fraction_read) {
  BudgetMember member;
  member.policy = policy;
  member.fraction_read = fraction_read;
  const Conditions conditions = conditions_of(entrants, policy);
  member.adapter = conditions.adapter;
  member.context_read = conditions.context_read;
  member.is_query_aware = conditions.is_query_aware;
  return member;
}

BudgetGroup make_group(const EqualBudget& table, std::span<const Entrant> entrants, double scale) {
  BudgetGroup group{
      table.task, table.target, table.target_fraction, table.num_items, std::ssize(table.left_out),
      {}};
  for (const EqualBudget::Row& row : table.rows) {
    BudgetMember& member =
        group.members.emplace_back(make_member(entrants, row.policy, row.fraction_read));
    member.score = scaled(row.score, scale);
    member.is_off = table.is_off(row);
  }
  for (const Matched& one : table.unmatched) {
    group.members.push_back(make_member(entrants, one.entrant, one.measured));
    group.members.back().is_out = true;
  }
  return group;
}

std::vector<std::string> notes_of(const Findings& findings) {
  std::vector<std::string> notes;
  for (const EqualBudget& table : findings.equal_budgets) {
    double least = table.wanted, most = table.wanted;
    for (const EqualBudget::Row& row : table.rows) {
      least = std::min(least, row.fraction_read);
      most = std::max(most, row.fraction_read);
    }
    std::string note = fmt::format(
        "{}, as much as {}: budgets were set on other items to read {:.1f} % of the keys; on {} "
        "items policies read {:.1f} to {:.1f} %",
        table.task, table.target, 100 * table.wanted, table.num_items, 100 * least, 100 * most);
    if (!table.left_out.empty()) {
      note += fmt::format("; {} items shorter than a policy's floor are left out",
                          table.left_out.size());
    }
    std::vector<std::string> off;
    for (const EqualBudget::Row& row : table.rows)
      if (table.is_off(row))
        off.push_back(fmt::format("{} ({:.1f} %)", row.policy, 100 * row.fraction_read));
    if (!off.empty()) {
      note += fmt::format("; more than {:.0f} % off the {:.1f} % of the target there: {}",
                          100 * kTolerance, 100 * table.target_fraction, fmt::join(off, ", "));
    }
    std::vector<std::string> nearest;
    for (const Matched& one : table.unmatched)
      nearest.push_back(fmt::format("{} ({:.1f} %)", one.entrant, 100 * one.measured));
    if (!nearest.empty())
      note +=
          fmt::format("; out, as none of their budgets comes near: {}", fmt::join(nearest, ", "));
    notes.push_back(note + ".");
  }
  if (!findings.failures.empty()) {
    notes.push_back(fmt::format("Skipped because of errors: {}, the first: {}",
                                findings.failures.size(), findings.failures.front().error));
  }
  std::ranges::move(cautions(findings), std::back_inserter(notes));
  return notes;
}

}  // namespace

std::vector<std::string> cautions(const Findings& findings) {
  constexpr std::int64_t few_items = 10;
  std::vector<std::string> sentences;
  std::set<std::string> undiagnosed;
  bool has_few = false;
  for (const Summary& summary : findings.summaries) {
    has_few |= summary.num_items < few_items;
    if (findings.wants_diagnoses && !is_loss(summary.metric)) undiagnosed.insert(summary.task);
  }
  for (const TaskDiagnosis& one : findings.diagnoses) undiagnosed.erase(one.task);
  if (has_few) {
    sentences.push_back(fmt::format(
        "Intervals of tasks with fewer than {} items are not to be trusted.", few_items));
  }
  if (!undiagnosed.empty()) {
    sentences.push_back(fmt::format("No diagnostics of {}: no item's answer stands in its text.",
                                    fmt::join(undiagnosed, ", ")));
  }
  return sentences;
}

Findings find(const RunResult& result, std::span<const Matched> matched,
              const std::string& baseline) {
  Findings findings;
  findings.equal_budgets = equal_budgets(result.records, matched);
  std::set<std::tuple<std::string, std::string, std::string>> left_out;  // task, policy, item
  for (const EqualBudget& table : findings.equal_budgets) {
    for (const EqualBudget::Row& row : table.rows) {
      if (row.policy == table.target) continue;
      for (const std::string& item : table.left_out)
        left_out.insert({table.task, row.policy, item});
    }
  }
  std::vector<Record> records;
  std::ranges::copy_if(result.records, std::back_inserter(records), [&](const Record& record) {
    return !left_out.contains({record.task, record.row.policy, record.item_id});
  });
  findings.summaries = summarize(records);
  if (!baseline.empty()) findings.comparisons = compare_to(baseline, records);
  findings.lengths = by_length(records);
  findings.depths = by_depth(records);
  findings.failures = result.failures;
  return findings;
}

Report make_report(const Findings& findings, std::span<const Entrant> entrants, ReportHead head) {
  Report report;
  report.title = std::move(head.title);
  report.model = std::move(head.model);
  report.command = std::move(head.command);
  report.date = std::move(head.date);
  report.facts = std::move(head.facts);
  report.notes = notes_of(findings);
  std::set<std::string> losses;  // tasks whose score is a perplexity
  for (const Summary& summary : findings.summaries) {
    const Entrant* entrant = find_entrant(entrants, summary.policy);
    if (entrant == nullptr) continue;
    const Conditions conditions = conditions_of(entrant->run);
    ReportRow row = make_row(summary, conditions);
    row.num_below_floor = count_left_out(findings, summary.task, entrant->target);
    if (row.kind == ScoreKind::perplexity) losses.insert(summary.task);
    report.budgets.push_back({row.task,
                              conditions.adapter.empty()
                                  ? entrant->run.spec.name
                                  : entrant->run.spec.name + ", " + conditions.adapter,
                              row.policy, row.fraction_read, row.score});
    report.rows.push_back(std::move(row));
  }
  const auto scale = [&](const std::string& task) { return losses.contains(task) ? 1.0 : 100.0; };
  for (const EqualBudget& table : findings.equal_budgets)
    report.equal_budgets.push_back(make_group(table, entrants, scale(table.task)));
  for (const LengthBucket& bucket : findings.lengths) {
    report.lengths.push_back({bucket.task, bucket.policy, bucket.min_tokens, bucket.max_tokens,
                              bucket.num_items, scaled(bucket.score, scale(bucket.task))});
  }
  for (const DepthCell& cell : findings.depths) {
    report.needles.push_back(
        {cell.task, cell.policy, cell.length, cell.depth, 100 * cell.score, cell.num_items});
  }
  for (const Comparison& one : findings.comparisons) {
    report.pairs.push_back({one.task, one.policy, one.baseline, one.num_items,
                            scaled(one.test.difference, scale(one.task)), one.test.p_value,
                            one.holm_p});
  }
  for (const TaskDiagnosis& one : findings.diagnoses)
    report.diagnostics.insert(report.diagnostics.end(), one.grids.begin(), one.grids.end());
  return report;
}

}  // namespace gsa::eval
