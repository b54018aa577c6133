#include "eval/report_tables.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <optional>
#include <tuple>

#include "core/display.h"
#include "core/error.h"

namespace gsa::eval {
namespace {

using enum TableColumn::Kind;

const std::string dash = "–";

/// A cell of a number that may not have been measured.
template <typename Format>
TableCell number_cell(double value, Format format) {
  return std::isfinite(value) ? TableCell(format(value), value) : TableCell(dash);
}

TableCell decimal_cell(double value, int num_digits) {
  return number_cell(value, [&](double v) { return fmt::format("{:.{}f}", v, num_digits); });
}
/// Three digits, however large the number is.
TableCell rounded_cell(double value) {
  return number_cell(value, [](double v) {
    const double magnitude = v == 0 ? 0 : std::floor(std::log10(std::abs(v)));
    return fmt::format("{:.{}f}", v, std::clamp(2 - static_cast<int>(magnitude), 0, 4));
  });
}
TableCell percent_cell(double fraction) {
  return number_cell(fraction, [](double v) { return core::format_percent(v); });
}
TableCell bytes_cell(double bytes) {
  return number_cell(bytes, [](double v) { return core::format_bytes(v); });
}
TableCell count_cell(std::int64_t count) {
  return {core::format_count(count), static_cast<double>(count)};
}
TableCell tokens_cell(double tokens) {
  return number_cell(tokens, [](double v) { return core::format_count(std::llround(v)); });
}
TableCell p_cell(double p) {
  return number_cell(p, [](double v) { return v < 0.001 ? "< 0.001" : fmt::format("{:.3f}", v); });
}

int digits_of(ScoreKind kind) { return kind == ScoreKind::points ? 1 : 2; }

/// "41.2 (38.0 to 44.5)"; a dash where there is no interval, a sign in front where that is the
/// point.
TableCell interval_cell(const Interval& interval, int num_digits, const char* sign = "") {
  if (!std::isfinite(interval.mean)) return TableCell(dash);
  const auto number = [&](double value) {
    return *sign == '+' ? fmt::format("{:+.{}f}", value, num_digits)
                        : fmt::format("{:.{}f}", value, num_digits);
  };
  const std::string ends =
      std::isfinite(interval.low) && std::isfinite(interval.high)
          ? fmt::format("{} to {}", number(interval.low), number(interval.high))
          : dash;
  return {fmt::format("{} ({})", number(interval.mean), ends), interval.mean};
}

ScoreKind kind_of(const Report& report, const std::string& task) {
  const auto row = std::ranges::find(report.rows, task, &ReportRow::task);
  return row == report.rows.end() ? ScoreKind::points : row->kind;
}

std::string metric_of(const Report& report, const std::string& task) {
  const auto row = std::ranges::find(report.rows, task, &ReportRow::task);
  return row == report.rows.end() || row->metric.empty() ? "score" : row->metric;
}

TableCell secondary_cell(const ReportRow& row) {
  std::string text;
  for (const auto& [name, value] : row.secondary)
    text += fmt::format("{}{} {}", text.empty() ? "" : ", ", name, decimal_cell(value, 1).text);
  return TableCell(text.empty() ? dash : text);
}

/// The mean of what was measured.
double mean(const std::vector<double>& values) {
  double sum = 0;
  int count = 0;
  for (const double value : values) {
    if (!std::isfinite(value)) continue;
    sum += value;
    ++count;
  }
  return count == 0 ? not_measured : sum / count;
}

}  // namespace

std::string adapter_name(const std::string& adapter) { return adapter.empty() ? "none" : adapter; }

std::string row_label(const Report& report, const ReportRow& row) {
  const bool is_ambiguous = std::ranges::any_of(report.rows, [&](const ReportRow& other) {
    return other.policy == row.policy && other.adapter != row.adapter;
  });
  return is_ambiguous
             ? fmt::format("{} ({})", row.policy, row.adapter.empty() ? "no adapter" : row.adapter)
             : row.policy;
}

std::string format_bucket(const LengthPoint& point) {
  return fmt::format("{} to {}", core::format_count(point.min_tokens),
                     core::format_count(point.max_tokens));
}

ReportTable overview_table(const Report& report) {
  const auto tasks = distinct(report.rows, [](const ReportRow& row) { return row.task; });
  if (tasks.size() < 2) return {};
  std::vector<std::string> in_mean;
  for (const std::string& task : tasks)
    if (kind_of(report, task) == ScoreKind::points) in_mean.push_back(task);
  ReportTable table{"Scores by task; keys read are means over the tasks",
                    {{"policy"}, {"adapter"}, {"keys read", number}},
                    {}};
  if (in_mean.size() > 1 && in_mean.size() < tasks.size())
    table.caption += "; means of scores leave perplexities out";
  for (const std::string& task : tasks)
    table.columns.push_back({fmt::format("{} ({})", task, metric_of(report, task)), number});
  if (in_mean.size() > 1)
    table.columns.push_back({fmt::format("mean of {} tasks", in_mean.size()), number});

  const auto entries = distinct(
      report.rows, [](const ReportRow& row) { return std::pair(row.policy, row.adapter); });
  for (const auto& [policy, adapter] : entries) {
    std::vector<TableCell> cells;
    std::vector<double> fractions, points;
    for (const std::string& task : tasks) {
      const auto row = std::ranges::find_if(report.rows, [&](const ReportRow& candidate) {
        return std::tie(candidate.task, candidate.policy, candidate.adapter) ==
               std::tie(task, policy, adapter);
      });
      if (row == report.rows.end()) {
        cells.emplace_back(dash);
        continue;
      }
      fractions.push_back(row->fraction_read);
      if (row->kind == ScoreKind::points && std::isfinite(row->score.mean))
        points.push_back(row->score.mean);
      cells.push_back(decimal_cell(row->score.mean, digits_of(row->kind)));
    }
    // A mean over other tasks than its neighbours' would not compare.
    if (in_mean.size() > 1)
      cells.push_back(
          decimal_cell(points.size() == in_mean.size() ? mean(points) : not_measured, 1));
    std::vector<TableCell> line = {policy, adapter_name(adapter), percent_cell(mean(fractions))};
    line.insert(line.end(), cells.begin(), cells.end());
    table.rows.push_back(std::move(line));
  }
  return table;
}

ReportTable results_table(const Report& report) {
  ReportTable table{"Every policy on every task, with 95 % intervals over the items",
                    {{"policy"},
                     {"task"},
                     {"score (95 %)", number},
                     {"metric"},
                     {"n", number},
                     {"keys read", number},
                     {"nominal ratio", number},
                     {"adapter"},
                     {"context read with"},
                     {"query-aware"},
                     {"other metrics"},
                     {"left out", number},
                     {"truncated", number}},
                    {}};
  for (const ReportRow& row : report.rows) {
    table.rows.push_back({row.policy, row.task, interval_cell(row.score, digits_of(row.kind)),
                          row.metric.empty() ? dash : row.metric, count_cell(row.num_items),
                          percent_cell(row.fraction_read),
                          row.nominal_ratio > 0 ? TableCell(fmt::format("{}x", row.nominal_ratio),
                                                            static_cast<double>(row.nominal_ratio))
                                                : TableCell(dash),
                          adapter_name(row.adapter),
                          row.context_read.empty() ? dash : row.context_read,
                          std::string(row.is_query_aware ? "yes" : "no"), secondary_cell(row),
                          count_cell(row.num_below_floor), count_cell(row.num_truncated)});
  }
  return table;
}

std::vector<ReportTable> equal_tables(const Report& report) {
  std::vector<ReportTable> tables;
  for (const BudgetGroup& group : report.equal_budgets) {
    std::string caption =
        fmt::format("{}, as much as {} ({} of the keys), n = {}", group.task, group.target,
                    percent_cell(group.target_fraction).text, core::format_count(group.num_items));
    if (group.num_below_floor > 0)
      caption += fmt::format("; {} items shorter than a policy's floor left out",
                             core::format_count(group.num_below_floor));
    ReportTable table{std::move(caption),
                      {{"policy"},
                       {metric_of(report, group.task) + " (95 %)", number},
                       {"keys read", number},
                       {"adapter"},
                       {"context read with"},
                       {"query-aware"}},
                      {}};
    for (const BudgetMember& member : group.members) {
      TableCell read = percent_cell(member.fraction_read);
      if (member.is_off) read.text += " *";
      table.rows.push_back(
          {member.policy,
           member.is_out ? TableCell("out")
                         : interval_cell(member.score, digits_of(kind_of(report, group.task))),
           std::move(read), adapter_name(member.adapter),
           member.context_read.empty() ? dash : member.context_read,
           std::string(member.is_query_aware ? "yes" : "no")});
    }
    tables.push_back(std::move(table));
  }
  return tables;
}

ReportTable cost_table(const Report& report) {
  ReportTable table{"Speed and memory, means over the items; memory is the largest",
                    {{"policy"},
                     {"task"},
                     {"context tokens", number},
                     {"answer tokens", number},
                     {"reading, s", number},
                     {"reading, share of full", number},
                     {"ms per token", number},
                     {"cache per token", number},
                     {"peak memory", number}},
                    {}};
  const bool is_measured = std::ranges::any_of(report.rows, [](const ReportRow& row) {
    return std::ranges::any_of(
        std::initializer_list<double>{row.context_tokens, row.prefill_seconds, row.prefill_fraction,
                                      row.decode_ms_per_token, row.kv_bytes_per_token,
                                      row.peak_memory_bytes},
        [](double value) { return std::isfinite(value); });
  });
  if (!is_measured) return table;
  for (const ReportRow& row : report.rows) {
    table.rows.push_back({row_label(report, row), row.task, tokens_cell(row.context_tokens),
                          decimal_cell(row.answer_tokens, 1), rounded_cell(row.prefill_seconds),
                          percent_cell(row.prefill_fraction), rounded_cell(row.decode_ms_per_token),
                          bytes_cell(row.kv_bytes_per_token), bytes_cell(row.peak_memory_bytes)});
  }
  return table;
}

ReportTable pairs_table(const Report& report) {
  ReportTable table{
      "Difference of the scores on the same items, first minus second; of "
      "perplexities that of the losses, in nats per token",
      {{"first"},
       {"second"},
       {"task"},
       {"difference (95 %)", number},
       {"n", number},
       {"p", number},
       {"p (Holm)", number}},
      {}};
  for (const PairedComparison& pair : report.pairs) {
    const bool are_losses = kind_of(report, pair.task) == ScoreKind::perplexity;
    TableCell difference = interval_cell(pair.difference, are_losses ? 3 : 1, "+");
    if (are_losses && std::isfinite(difference.value)) difference.text += " nats";
    table.rows.push_back({pair.policy_a, pair.policy_b, pair.task, std::move(difference),
                          count_cell(pair.num_items), p_cell(pair.p_value),
                          p_cell(pair.adjusted_p_value)});
  }
  return table;
}

ReportTable budget_table(const Report& report, const std::string& task) {
  ReportTable table{fmt::format("{}: {} against keys read", task, metric_of(report, task)),
                    {{"policy"}, {"series"}, {"keys read", number}, {"score (95 %)", number}},
                    {}};
  for (const BudgetPoint& point : report.budgets) {
    if (point.task != task) continue;
    table.rows.push_back({point.policy, point.series, percent_cell(point.fraction_read),
                          interval_cell(point.score, digits_of(kind_of(report, task)))});
  }
  return table;
}

ReportTable length_table(const Report& report, const std::string& task) {
  ReportTable table{fmt::format("{}: {} by context length", task, metric_of(report, task)),
                    {{"policy"}, {"tokens", number}, {"n", number}, {"score (95 %)", number}},
                    {}};
  for (const LengthPoint& point : report.lengths) {
    if (point.task != task) continue;
    table.rows.push_back({point.policy,
                          TableCell(format_bucket(point), static_cast<double>(point.min_tokens)),
                          count_cell(point.num_items),
                          interval_cell(point.score, digits_of(kind_of(report, task)))});
  }
  return table;
}

std::vector<HeatMap> needle_grids(const Report& report) {
  std::vector<HeatMap> grids;
  const auto groups = distinct(
      report.needles, [](const NeedleCell& cell) { return std::pair(cell.task, cell.policy); });
  for (const auto& [task, policy] : groups) {
    std::vector<NeedleCell> cells;
    for (const NeedleCell& cell : report.needles)
      if (cell.task == task && cell.policy == policy) cells.push_back(cell);
    auto lengths = distinct(cells, [](const NeedleCell& cell) { return cell.length; });
    auto depths = distinct(cells, [](const NeedleCell& cell) { return cell.depth; });
    std::ranges::sort(lengths);
    std::ranges::sort(depths);
    HeatMap grid;
    grid.title = fmt::format("{}, {}", task, policy);
    const auto [fewest, most] = std::ranges::minmax(cells, {}, &NeedleCell::num_items);
    grid.text =
        fewest.num_items == most.num_items
            ? fmt::format("{} item{} per cell", most.num_items, most.num_items == 1 ? "" : "s")
            : fmt::format("{} to {} items per cell", fewest.num_items, most.num_items);
    grid.row_title = "depth";
    grid.column_title = "tokens";
    for (const double depth : depths)
      grid.row_names.push_back(fmt::format("{:.0f} %", 100 * depth));
    for (const auto length : lengths) grid.column_names.push_back(core::format_count(length));
    grid.values.assign(lengths.size() * depths.size(), not_measured);
    for (const NeedleCell& cell : cells) {
      const auto row = std::ranges::find(depths, cell.depth) - depths.begin();
      const auto column = std::ranges::find(lengths, cell.length) - lengths.begin();
      grid.values[static_cast<std::size_t>(row * std::ssize(lengths) + column)] = cell.score;
    }
    grid.high = 100;
    grid.num_digits = 0;
    grids.push_back(std::move(grid));
  }
  return grids;
}

std::string format_value(const HeatMap& grid, std::size_t row, std::size_t column) {
  return decimal_cell(grid.values[row * grid.column_names.size() + column], grid.num_digits).text;
}

ReportTable grid_table(const HeatMap& grid) {
  ReportTable table{grid.title, {{fmt::format("{} \\ {}", grid.row_title, grid.column_title)}}, {}};
  for (const std::string& name : grid.column_names) table.columns.push_back({name, number});
  for (std::size_t row = 0; row < grid.row_names.size(); ++row) {
    std::vector<TableCell> line = {grid.row_names[row]};
    for (std::size_t column = 0; column < grid.column_names.size(); ++column)
      line.emplace_back(format_value(grid, row, column),
                        grid.values[row * grid.column_names.size() + column]);
    table.rows.push_back(std::move(line));
  }
  return table;
}

void check_grids(const Report& report) {
  for (const HeatMap& grid : report.diagnostics) {
    if (grid.values.size() == grid.row_names.size() * grid.column_names.size()) continue;
    core::internal_error("report: '{}' has {} values for {} rows and {} columns", grid.title,
                         grid.values.size(), grid.row_names.size(), grid.column_names.size());
  }
}

}  // namespace gsa::eval
