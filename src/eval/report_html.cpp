#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <string_view>

#include "core/display.h"
#include "core/utf8.h"
#include "eval/report.h"
#include "eval/report_assets.h"
#include "eval/report_sections.h"

namespace gsa::eval {
namespace {

/// Nothing from outside, whatever stands in the page.
constexpr const char* content_policy =
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:";

/// Free text between tags or in a quoted attribute.
std::string html(std::string_view text) {
  return core::escape_markup(core::decode_utf8(text).text);
}

/// JSON as it may stand in a script element: no tag begins or ends in it.
std::string script_json(std::string_view json) {
  std::string out;
  for (const char c : json) {
    if (c == '<') {
      out += "\\u003c";
    } else {
      out += c;
    }
  }
  return out;
}

std::string paragraph(std::string_view text) {
  return text.empty() ? "" : fmt::format("<p>{}</p>\n", html(text));
}

/// A box that scrolls by itself; it takes the focus, so that keys scroll it.
std::string scroll_box(std::string_view label, std::string_view content) {
  return fmt::format(
      "<div class=\"scroll\" role=\"region\" tabindex=\"0\" aria-label=\"{}\">\n{}</div>\n",
      html(label), content);
}

/// Free text that may be long without spaces, as policies are: it breaks behind commas, colons and
/// slashes.
std::string breakable_html(std::string_view text) {
  std::string out;
  for (const char c : html(text)) {
    out += c;
    if (c == ',' || c == ':' || c == '/') out += "<wbr>";
  }
  return out;
}

std::string cell_html(const TableColumn& column, const TableCell& cell) {
  if (column.kind == TableColumn::Kind::text)
    return fmt::format("<td>{}</td>", breakable_html(cell.text));
  const std::string value =
      std::isfinite(cell.value) ? fmt::format(" data-value=\"{}\"", cell.value) : "";
  return fmt::format("<td class=\"number\"{}>{}</td>", value, html(cell.text));
}

std::string table_html(const ReportTable& table) {
  std::string out =
      fmt::format("<table class=\"sortable\">\n<caption><span>{}</span></caption>\n<thead><tr>",
                  html(table.caption));
  for (const TableColumn& column : table.columns) {
    out += fmt::format("<th scope=\"col\"{}>{}</th>",
                       column.kind == TableColumn::Kind::number ? " class=\"number\"" : "",
                       html(column.title));
  }
  out += "</tr></thead>\n<tbody>\n";
  for (const auto& row : table.rows) {
    out += fmt::format("<tr><th scope=\"row\">{}</th>", breakable_html(row.front().text));
    for (std::size_t i = 1; i < row.size(); ++i) out += cell_html(table.columns[i], row[i]);
    out += "</tr>\n";
  }
  return scroll_box(table.caption, out + "</tbody>\n</table>\n");
}

struct Colour {
  double red, green, blue;
};

/// Colours from dark blue to yellow that rise evenly in lightness, also for the colour-blind
/// (after cividis: Nunez, Anderton, Renslow 2018).
Colour scale_colour(double share) {
  constexpr std::array<Colour, 5> stops = {
      {{0, 34, 78}, {66, 78, 108}, {124, 123, 120}, {187, 173, 109}, {254, 232, 56}}};
  const double place = std::clamp(share, 0.0, 1.0) * (stops.size() - 1);
  const auto idx = std::min(static_cast<std::size_t>(place), stops.size() - 2);
  const double rest = place - static_cast<double>(idx);
  const auto mixed = [&](double Colour::* part) {
    return std::round(stops[idx].*part + rest * (stops[idx + 1].*part - stops[idx].*part));
  };
  return {mixed(&Colour::red), mixed(&Colour::green), mixed(&Colour::blue)};
}

std::string grid_cell_html(const HeatMap& grid, std::size_t row, std::size_t column) {
  const double value = grid.values[row * grid.column_names.size() + column];
  const std::string text = format_value(grid, row, column);
  if (!std::isfinite(value)) return fmt::format("<td>{}</td>", html(text));
  const double span = grid.high - grid.low;
  const Colour colour = scale_colour(span > 0 ? (value - grid.low) / span : 0);
  // Black or white, whichever contrasts more: equal at a lightness of about 127.
  const double light = 0.299 * colour.red + 0.587 * colour.green + 0.114 * colour.blue;
  return fmt::format("<td style=\"background:rgb({},{},{});color:{}\">{}</td>", colour.red,
                     colour.green, colour.blue, light > 115 ? "#000" : "#fff", html(text));
}

std::string grid_html(const HeatMap& grid) {
  std::string out = fmt::format(
      "<table class=\"grid\">\n<caption><span>{}{}{}</span></caption>\n<thead><tr><th "
      "scope=\"col\">{} \\ "
      "{}</th>",
      html(grid.title), grid.text.empty() ? "" : ": ", html(grid.text), html(grid.row_title),
      html(grid.column_title));
  for (const std::string& name : grid.column_names)
    out += fmt::format("<th scope=\"col\">{}</th>", html(name));
  out += "</tr></thead>\n<tbody>\n";
  for (std::size_t row = 0; row < grid.row_names.size(); ++row) {
    out += fmt::format("<tr><th scope=\"row\">{}</th>", html(grid.row_names[row]));
    for (std::size_t column = 0; column < grid.column_names.size(); ++column)
      out += grid_cell_html(grid, row, column);
    out += "</tr>\n";
  }
  return scroll_box(grid.title, out + "</tbody>\n</table>\n");
}

std::string chart_html(const ReportChart& chart, std::string_view id) {
  std::string out = fmt::format(
      "<figure>\n<figcaption>{}</figcaption>\n"
      "<div class=\"plot\" style=\"--entries:{}\"><canvas id=\"{}\" role=\"img\" "
      "aria-label=\"{}\"></canvas></div>\n"
      "<script type=\"application/json\" class=\"chart\" data-canvas=\"{}\">{}</script>\n",
      html(chart.title), chart.num_entries, id, html(chart.description), id,
      script_json(chart.data));
  if (!chart.numbers.rows.empty())
    out += fmt::format("<details><summary>Numbers</summary>\n{}</details>\n",
                       table_html(chart.numbers));
  return out + "</figure>\n";
}

std::string section_html(const ReportSection& section) {
  std::string out = fmt::format("<section id=\"{}\">\n<h2>{}</h2>\n{}", section.id,
                                html(section.title), paragraph(section.text));
  out += paragraph(section.chart_text);
  if (!section.charts.empty()) {
    out += fmt::format("<div class=\"charts {}\">\n", section.id);
    for (std::size_t i = 0; i < section.charts.size(); ++i)
      out += chart_html(section.charts[i], fmt::format("{}-{}", section.id, i));
    out += "</div>\n";
  }
  for (const ReportTable& table : section.tables) out += table_html(table);
  if (!section.grids.empty()) {
    out += "<div class=\"grids\">\n";
    for (const HeatMap& grid : section.grids) out += grid_html(grid);
    out += "</div>\n";
  }
  return out + "</section>\n";
}

std::string header_html(const Report& report) {
  std::string facts;
  if (!report.model.empty())
    facts += fmt::format("<dt>Model</dt><dd>{}</dd>\n", html(report.model));
  for (const auto& [name, value] : report.facts)
    facts += fmt::format("<dt>{}</dt><dd>{}</dd>\n", html(name), html(value));
  if (!report.date.empty()) facts += fmt::format("<dt>Date</dt><dd>{}</dd>\n", html(report.date));
  if (!report.command.empty())
    facts += fmt::format("<dt>Command</dt><dd><code>{}</code></dd>\n", html(report.command));
  std::string out = fmt::format("<header>\n<h1>{}</h1>\n", html(report.title));
  if (!facts.empty()) out += fmt::format("<dl>\n{}</dl>\n", facts);
  for (const std::string& note : report.notes) out += paragraph(note);
  return out + "</header>\n";
}

std::string contents_html(const std::vector<ReportSection>& sections) {
  if (sections.size() < 2) return "";
  std::string out = "<nav aria-label=\"Sections\"><ul>\n";
  for (const ReportSection& section : sections)
    out += fmt::format("<li><a href=\"#{}\">{}</a></li>\n", section.id, html(section.title));
  return out + "</ul></nav>\n";
}

}  // namespace

std::string to_html(const Report& report) {
  const auto sections = report_sections(report);
  const bool has_charts = std::ranges::any_of(
      sections, [](const ReportSection& section) { return !section.charts.empty(); });
  std::string out = fmt::format(
      "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
      "<meta http-equiv=\"Content-Security-Policy\" content=\"{}\">\n"
      "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n"
      "<title>{}</title>\n<style>\n{}</style>\n</head>\n<body>\n{}{}<main>\n",
      content_policy, html(report.title), report_css, header_html(report), contents_html(sections));
  if (has_charts)
    out +=
        "<noscript><p>The charts need scripts; all their numbers are in the "
        "tables.</p></noscript>\n";
  for (const ReportSection& section : sections) out += section_html(section);
  out += "</main>\n";
  if (has_charts) out += fmt::format("<script>{}</script>\n", chart_js);
  out += fmt::format("<script>{}</script>\n</body>\n</html>\n", report_js);
  return out;
}

}  // namespace gsa::eval
