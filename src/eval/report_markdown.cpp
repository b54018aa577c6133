#include <fmt/format.h>

#include <algorithm>
#include <string_view>

#include "eval/report.h"
#include "eval/report_sections.h"

namespace gsa::eval {
namespace {

/// One line of text that Markdown shows as it is: no markup, no end of a table's cell.
std::string plain(std::string_view text) {
  std::string out;
  for (const char c : text) {
    if (c == '\n' || c == '\r' || c == '\t') {
      out += ' ';
      continue;
    }
    if (std::string_view("\\`*_[]<>|#~&").find(c) != std::string_view::npos) out += '\\';
    out += c;
  }
  return out;
}

/// A block of code whose fence is longer than any run of backticks in it.
std::string code_block(std::string_view code) {
  std::size_t longest = 0, run = 0;
  for (const char c : code) {
    run = c == '`' ? run + 1 : 0;
    longest = std::max(longest, run);
  }
  const std::string fence(std::max<std::size_t>(3, longest + 1), '`');
  return fmt::format("{0}\n{1}\n{0}\n\n", fence, code);
}

std::string table_text(const ReportTable& table) {
  std::string out;
  for (const TableColumn& column : table.columns) out += fmt::format("| {} ", plain(column.title));
  out += "|\n";
  for (const TableColumn& column : table.columns)
    out += column.kind == TableColumn::Kind::number ? "|--:" : "|---";
  out += "|\n";
  for (const auto& row : table.rows) {
    for (const TableCell& cell : row) out += fmt::format("| {} ", plain(cell.text));
    out += "|\n";
  }
  return out + "\n";
}

std::string captioned(const ReportTable& table) {
  return fmt::format("{}:\n\n{}", plain(table.caption), table_text(table));
}

/// Whether a section has more than what charts draw of the results.
bool has_own_content(const ReportSection& section) {
  return !section.tables.empty() || !section.grids.empty() ||
         !std::ranges::all_of(section.charts, &ReportChart::repeats_results);
}

}  // namespace

std::string to_markdown(const Report& report) {
  std::string out = fmt::format("# {}\n\n", plain(report.title));
  if (!report.model.empty()) out += fmt::format("Model: {}\n\n", plain(report.model));
  for (const auto& [name, value] : report.facts)
    out += fmt::format("{}: {}\n\n", plain(name), plain(value));
  if (!report.date.empty()) out += fmt::format("Date: {}\n\n", plain(report.date));
  for (const std::string& note : report.notes) out += plain(note) + "\n\n";
  if (!report.command.empty()) out += code_block(report.command);
  for (const ReportSection& section : report_sections(report)) {
    if (!has_own_content(section)) continue;
    out += fmt::format("## {}\n\n", section.title);
    if (!section.text.empty()) out += section.text + "\n\n";
    for (const ReportChart& chart : section.charts)
      if (!chart.repeats_results && !chart.numbers.rows.empty()) out += captioned(chart.numbers);
    for (const ReportTable& table : section.tables) out += captioned(table);
    for (const HeatMap& grid : section.grids) {
      out += fmt::format("### {}\n\n", plain(grid.title));
      if (!grid.text.empty()) out += plain(grid.text) + "\n\n";
      out += table_text(grid_table(grid));
    }
  }
  out.pop_back();  // one end of line at the end
  return out;
}

}  // namespace gsa::eval
