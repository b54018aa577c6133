#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "eval/report.h"
#include "eval/report_tables.h"

namespace gsa::eval {

/// A chart as src/eval/report.js draws it.
struct ReportChart {
  std::string title;
  std::string description;       ///< for those who do not see it
  std::string data;              ///< JSON; ill-formed UTF-8 replaced
  std::size_t num_entries = 0;   ///< of its legend, or bars
  ReportTable numbers;           ///< what it shows; no rows if the section's tables have it
  bool repeats_results = false;  ///< its numbers stand in the table of results, row by row
};

/// What HTML and Markdown have in common. Markdown has no charts, only such of their numbers as
/// stand nowhere else.
struct ReportSection {
  std::string id;
  std::string title;
  std::string text;
  std::string chart_text;  ///< how the charts are to be read
  std::vector<ReportChart> charts;
  std::vector<ReportTable> tables;
  std::vector<HeatMap> grids;
};

/// The sections that have entries. Internal error as in `to_html`.
std::vector<ReportSection> report_sections(const Report& report);

/// A chart for every task: quality against keys read, with its intervals.
std::vector<ReportChart> budget_charts(const Report& report);
/// A chart for every task: quality by buckets of context length.
std::vector<ReportChart> length_charts(const Report& report);
/// Bars by policy, means over the items of all tasks: time and memory.
std::vector<ReportChart> cost_charts(const Report& report);

}  // namespace gsa::eval
