#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <tuple>

#include "eval/report_sections.h"

namespace gsa::eval {
namespace {

using Json = nlohmann::ordered_json;

/// JSON knows no NaN: null is no point.
Json number(double value) { return std::isfinite(value) ? Json(value) : Json(nullptr); }

Json point_of(Json x, const Interval& score, std::string label) {
  return {{"x", std::move(x)},
          {"y", number(score.mean)},
          {"low", number(score.low)},
          {"high", number(score.high)},
          {"label", std::move(label)}};
}

/// The row of `report` that tells a task's metric.
const ReportRow* row_of(const Report& report, const std::string& task) {
  const auto row = std::ranges::find(report.rows, task, &ReportRow::task);
  return row == report.rows.end() ? nullptr : &*row;
}

Json score_axis(const Report& report, const std::string& task) {
  const ReportRow* row = row_of(report, task);
  const bool is_points = row == nullptr || row->kind == ScoreKind::points;
  std::string title = row == nullptr || row->metric.empty() ? "score" : row->metric;
  if (!is_points) title += " (less is better)";
  Json axis = {{"title", std::move(title)}};
  if (is_points) axis["most"] = 100;
  return axis;
}

std::string dump(const Json& json) {
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

/// What a chart of a task's scores has of its own.
struct ScoreSeries {
  const char* kind;
  Json series;
  std::string shown;  ///< in words
  ReportTable numbers;
  bool repeats_results = false;
};

ReportChart score_chart(const Report& report, const std::string& task, Json x_axis,
                        ScoreSeries scores) {
  const std::size_t num_entries = scores.series.size();
  const Json data = {{"kind", scores.kind},
                     {"x", std::move(x_axis)},
                     {"y", score_axis(report, task)},
                     {"series", std::move(scores.series)}};
  return {
      task,
      fmt::format("Chart of {}: {}. Its numbers are in the table below it.", task, scores.shown),
      dump(data),
      num_entries,
      std::move(scores.numbers),
      scores.repeats_results};
}

/// What one bar chart shows of a policy.
struct Cost {
  const char* title;
  double ReportRow::* field;
  double unit;
  bool is_largest;  // of the rows, instead of their mean weighted by items
};
constexpr Cost costs[] = {
    {"Decoding, ms per token", &ReportRow::decode_ms_per_token, 1, false},
    {"Reading the context, s", &ReportRow::prefill_seconds, 1, false},
    {"Cache per context token, kB", &ReportRow::kv_bytes_per_token, 1e3, false},
    {"Peak memory, GB", &ReportRow::peak_memory_bytes, 1e9, true}};

double cost_of(const Report& report, const std::string& label, const Cost& cost) {
  double sum = 0, largest = 0;
  std::int64_t num_items = 0;
  for (const ReportRow& row : report.rows) {
    const double value = row.*cost.field;
    if (row_label(report, row) != label || !std::isfinite(value) || row.num_items == 0) continue;
    sum += value * static_cast<double>(row.num_items);
    largest = std::max(largest, value);
    num_items += row.num_items;
  }
  if (num_items == 0) return not_measured;
  return (cost.is_largest ? largest : sum / static_cast<double>(num_items)) / cost.unit;
}

}  // namespace

std::vector<ReportChart> budget_charts(const Report& report) {
  std::vector<ReportChart> charts;
  // Numbers over all tasks, so that a series looks the same in every chart.
  const auto names = distinct(report.budgets, [](const BudgetPoint& p) { return p.series; });
  for (const std::string& task : distinct(report.budgets, [](const auto& p) { return p.task; })) {
    Json series = Json::array();
    for (std::size_t i = 0; i < names.size(); ++i) {
      std::vector<const BudgetPoint*> points;
      for (const BudgetPoint& point : report.budgets) {
        if (point.task == task && point.series == names[i] && point.fraction_read > 0 &&
            std::isfinite(point.fraction_read))
          points.push_back(&point);
      }
      if (points.empty()) continue;
      std::ranges::stable_sort(points, {}, &BudgetPoint::fraction_read);
      Json list = Json::array();
      for (const BudgetPoint* point : points)
        list.push_back(point_of(100 * point->fraction_read, point->score, point->policy));
      series.push_back({{"name", names[i]}, {"look", i}, {"points", std::move(list)}});
    }
    const std::string shown =
        fmt::format("quality against the share of keys read, {} series", series.size());
    charts.push_back(
        score_chart(report, task, {{"title", "keys read, % of full attention (logarithmic)"}},
                    {"budget", std::move(series), shown, budget_table(report, task), true}));
  }
  return charts;
}

std::vector<ReportChart> length_charts(const Report& report) {
  std::vector<ReportChart> charts;
  const auto names = distinct(report.lengths, [](const LengthPoint& p) { return p.policy; });
  for (const std::string& task : distinct(report.lengths, [](const auto& p) { return p.task; })) {
    std::vector<LengthPoint> points;
    for (const LengthPoint& point : report.lengths)
      if (point.task == task) points.push_back(point);
    std::ranges::stable_sort(
        points, {}, [](const LengthPoint& p) { return std::pair(p.min_tokens, p.max_tokens); });
    const auto buckets = distinct(points, format_bucket);
    Json series = Json::array();
    for (std::size_t i = 0; i < names.size(); ++i) {
      Json list = Json::array();
      for (const LengthPoint& point : points) {
        if (point.policy == names[i])
          list.push_back(point_of(format_bucket(point), point.score,
                                  fmt::format("{}, n = {}", point.policy, point.num_items)));
      }
      if (list.empty()) continue;
      series.push_back({{"name", names[i]}, {"look", i}, {"points", std::move(list)}});
    }
    const std::string shown =
        fmt::format("quality by length of the context, {} policies", series.size());
    charts.push_back(score_chart(
        report, task, {{"title", "tokens of the context"}, {"labels", buckets}},
        {"length", std::move(series), shown, length_table(report, task), buckets.size() == 1}));
  }
  return charts;
}

std::vector<ReportChart> cost_charts(const Report& report) {
  std::vector<ReportChart> charts;
  const auto labels =
      distinct(report.rows, [&](const ReportRow& row) { return row_label(report, row); });
  for (const Cost& cost : costs) {
    Json names = Json::array(), points = Json::array();
    for (const std::string& label : labels) {
      const double value = cost_of(report, label, cost);
      if (!std::isfinite(value)) continue;
      names.push_back(label);
      points.push_back({{"x", value}, {"y", label}});
    }
    if (names.empty()) continue;
    const std::size_t num_entries = names.size();
    Json series = Json::array();
    series.push_back({{"name", cost.title}, {"look", 0}, {"points", std::move(points)}});
    const Json data = {{"kind", "cost"},
                       {"x", {{"title", cost.title}}},
                       {"y", {{"labels", std::move(names)}}},
                       {"series", std::move(series)}};
    charts.push_back({cost.title,
                      fmt::format("Bars: {} for {} policies, over all tasks. The table of this "
                                  "section has the numbers by task.",
                                  cost.title, num_entries),
                      dump(data),
                      num_entries,
                      {}});
  }
  return charts;
}

}  // namespace gsa::eval
