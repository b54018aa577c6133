#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <initializer_list>
#include <string_view>
#include <utility>
#include <vector>

#include "core/error.h"
#include "eval/report.h"
#include "eval/report_tables.h"

namespace gsa::eval {
namespace {

constexpr auto columns = std::to_array<std::string_view>({"section",
                                                          "task",
                                                          "policy",
                                                          "other_policy",
                                                          "series",
                                                          "target",
                                                          "adapter",
                                                          "context_read",
                                                          "query_aware",
                                                          "n",
                                                          "metric",
                                                          "score",
                                                          "score_low",
                                                          "score_high",
                                                          "p_value",
                                                          "adjusted_p_value",
                                                          "nominal_ratio",
                                                          "fraction_read",
                                                          "fraction_target",
                                                          "off_target",
                                                          "prefill_fraction",
                                                          "context_tokens",
                                                          "answer_tokens",
                                                          "prefill_seconds",
                                                          "decode_ms_per_token",
                                                          "kv_bytes_per_token",
                                                          "peak_memory_bytes",
                                                          "items_below_floor",
                                                          "items_truncated",
                                                          "min_tokens",
                                                          "max_tokens",
                                                          "depth",
                                                          "row",
                                                          "column"});

/// A field in quotes where RFC 4180 asks for them.
std::string quoted(std::string_view field) {
  if (field.find_first_of(",\"\r\n") == std::string_view::npos) return std::string(field);
  std::string out = "\"";
  for (const char c : field) {
    if (c == '"') out += '"';
    out += c;
  }
  return out + '"';
}

std::string text(double value) { return std::isfinite(value) ? fmt::format("{}", value) : ""; }
std::string text(std::int64_t value) { return std::to_string(value); }

using Field = std::pair<std::string_view, std::string>;

class CsvWriter {
 public:
  CsvWriter() {
    for (const std::string_view name : columns) append(name, name == columns.back());
  }

  void add(const std::vector<Field>& fields) {
    std::array<std::string, columns.size()> line;
    for (const auto& [name, value] : fields) {
      const auto* column = std::find(columns.begin(), columns.end(), name);
      if (column == columns.end()) core::internal_error("report: no CSV column '{}'", name);
      line[static_cast<std::size_t>(column - columns.begin())] = value;
    }
    for (std::size_t i = 0; i < line.size(); ++i) append(line[i], i + 1 == line.size());
  }

  std::string finish() { return std::move(out_); }

 private:
  void append(std::string_view field, bool is_last) {
    out_ += quoted(field);
    out_ += is_last ? "\r\n" : ",";
  }

  std::string out_;
};

/// What the difference of two policies on a task is one of.
std::string difference_name(const Report& report, const std::string& task) {
  const auto row = std::ranges::find(report.rows, task, &ReportRow::task);
  if (row == report.rows.end()) return "";
  return row->kind == ScoreKind::perplexity ? "loss in nats per token" : row->metric;
}

std::vector<Field> with_score(std::vector<Field> fields, const Interval& score) {
  fields.insert(fields.end(), {{"score", text(score.mean)},
                               {"score_low", text(score.low)},
                               {"score_high", text(score.high)}});
  return fields;
}

void add_row(CsvWriter& csv, const ReportRow& row) {
  const std::vector<Field> key = {{"task", row.task},
                                  {"policy", row.policy},
                                  {"adapter", adapter_name(row.adapter)},
                                  {"context_read", row.context_read},
                                  {"query_aware", row.is_query_aware ? "true" : "false"},
                                  {"n", text(row.num_items)},
                                  {"fraction_read", text(row.fraction_read)}};
  std::vector<Field> fields = key;
  fields.insert(fields.end(),
                {{"section", "result"},
                 {"metric", row.metric},
                 {"nominal_ratio", row.nominal_ratio > 0 ? text(row.nominal_ratio) : ""},
                 {"prefill_fraction", text(row.prefill_fraction)},
                 {"context_tokens", text(row.context_tokens)},
                 {"answer_tokens", text(row.answer_tokens)},
                 {"prefill_seconds", text(row.prefill_seconds)},
                 {"decode_ms_per_token", text(row.decode_ms_per_token)},
                 {"kv_bytes_per_token", text(row.kv_bytes_per_token)},
                 {"peak_memory_bytes", text(row.peak_memory_bytes)},
                 {"items_below_floor", text(row.num_below_floor)},
                 {"items_truncated", text(row.num_truncated)}});
  csv.add(with_score(std::move(fields), row.score));
  for (const auto& [name, value] : row.secondary) {
    std::vector<Field> other = key;
    other.insert(other.end(), {{"section", "secondary"}, {"metric", name}, {"score", text(value)}});
    csv.add(other);
  }
}

void add_group(CsvWriter& csv, const BudgetGroup& group) {
  for (const BudgetMember& member : group.members) {
    csv.add(with_score({{"section", "equal_budget"},
                        {"task", group.task},
                        {"policy", member.policy},
                        {"target", group.target},
                        {"adapter", adapter_name(member.adapter)},
                        {"context_read", member.context_read},
                        {"query_aware", member.is_query_aware ? "true" : "false"},
                        {"n", text(member.is_out ? 0 : group.num_items)},
                        {"fraction_read", text(member.fraction_read)},
                        {"fraction_target", text(group.target_fraction)},
                        {"off_target", member.is_off || member.is_out ? "true" : "false"},
                        {"items_below_floor", text(group.num_below_floor)}},
                       member.score));
  }
}

void add_diagnostic(CsvWriter& csv, const HeatMap& grid) {
  for (std::size_t row = 0; row < grid.row_names.size(); ++row) {
    for (std::size_t column = 0; column < grid.column_names.size(); ++column) {
      csv.add({{"section", "diagnostic"},
               {"metric", grid.title},
               {"row", grid.row_names[row]},
               {"column", grid.column_names[column]},
               {"score", text(grid.values[row * grid.column_names.size() + column])}});
    }
  }
}

}  // namespace

std::string to_csv(const Report& report) {
  check_grids(report);
  CsvWriter csv;
  for (const ReportRow& row : report.rows) add_row(csv, row);
  for (const BudgetPoint& point : report.budgets) {
    csv.add(with_score({{"section", "budget"},
                        {"task", point.task},
                        {"policy", point.policy},
                        {"series", point.series},
                        {"fraction_read", text(point.fraction_read)}},
                       point.score));
  }
  for (const BudgetGroup& group : report.equal_budgets) add_group(csv, group);
  for (const LengthPoint& point : report.lengths) {
    csv.add(with_score({{"section", "length"},
                        {"task", point.task},
                        {"policy", point.policy},
                        {"n", text(point.num_items)},
                        {"min_tokens", text(point.min_tokens)},
                        {"max_tokens", text(point.max_tokens)}},
                       point.score));
  }
  for (const NeedleCell& cell : report.needles) {
    csv.add({{"section", "needle"},
             {"task", cell.task},
             {"policy", cell.policy},
             {"n", text(cell.num_items)},
             {"context_tokens", text(cell.length)},
             {"depth", text(cell.depth)},
             {"score", text(cell.score)}});
  }
  for (const PairedComparison& pair : report.pairs) {
    csv.add(with_score({{"section", "pair"},
                        {"task", pair.task},
                        {"policy", pair.policy_a},
                        {"other_policy", pair.policy_b},
                        {"metric", difference_name(report, pair.task)},
                        {"n", text(pair.num_items)},
                        {"p_value", text(pair.p_value)},
                        {"adjusted_p_value", text(pair.adjusted_p_value)}},
                       pair.difference));
  }
  for (const HeatMap& grid : report.diagnostics) add_diagnostic(csv, grid);
  return csv.finish();
}

}  // namespace gsa::eval
