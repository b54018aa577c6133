#pragma once

#include <algorithm>
#include <iterator>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "eval/report.h"

namespace gsa::eval {

/// A cell as people read it, with the number by which its column is sorted.
struct TableCell {
  std::string text;
  double value = not_measured;

  TableCell(std::string shown) : text(std::move(shown)) {}  // implicit: most cells are names
  TableCell(std::string shown, double number) : text(std::move(shown)), value(number) {}
};

struct TableColumn {
  enum class Kind { text, number };
  std::string title;
  Kind kind = Kind::text;
};

/// What HTML and Markdown show alike. The first column names the row.
struct ReportTable {
  std::string caption;
  std::vector<TableColumn> columns;
  std::vector<std::vector<TableCell>> rows;
};

/// Scores by policy and task; no rows if there are fewer than two tasks.
ReportTable overview_table(const Report& report);
ReportTable results_table(const Report& report);
/// One for every task and target.
std::vector<ReportTable> equal_tables(const Report& report);
ReportTable cost_table(const Report& report);
ReportTable pairs_table(const Report& report);
/// The numbers behind the charts of one task.
ReportTable budget_table(const Report& report, const std::string& task);
ReportTable length_table(const Report& report, const std::string& task);

/// A grid for every task and policy: depths down, lengths across.
std::vector<HeatMap> needle_grids(const Report& report);

/// A grid as a table; its values are as many as its names say.
ReportTable grid_table(const HeatMap& grid);
/// A value of a grid, a dash if there is none.
std::string format_value(const HeatMap& grid, std::size_t row, std::size_t column);
/// Internal error if a grid has other values than its names say.
void check_grids(const Report& report);

/// "1,024 to 2,047 tokens"
std::string format_bucket(const LengthPoint& point);
/// The adapter's name, or "none".
std::string adapter_name(const std::string& adapter);
/// The policy, with its adapter where the same policy ran with several.
std::string row_label(const Report& report, const ReportRow& row);

/// Values in the order in which they first occur.
template <typename Range, typename Key>
auto distinct(const Range& range, Key key) {
  std::vector<std::decay_t<decltype(key(*std::begin(range)))>> values;
  for (const auto& item : range) {
    auto value = key(item);
    if (std::find(values.begin(), values.end(), value) == values.end())
      values.push_back(std::move(value));
  }
  return values;
}

}  // namespace gsa::eval
