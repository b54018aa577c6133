#include "eval/report_sections.h"

#include <utility>

namespace gsa::eval {
namespace {

constexpr const char* results_text =
    "Keys read is the measured share of the keys that full attention reads for the same answers; "
    "the nominal ratio is what the policy was asked for. Left out are items shorter than a policy "
    "can be held to its budget on; truncated ones were cut in the middle to fit the model.";

constexpr const char* equal_text =
    "Policies whose budgets were set so that they read as much as the target, all on the same "
    "items. "
    "A star marks who reads over 5 % more or less than the target on them; out is a policy that no "
    "budget brings near the target.";

bool has_content(const ReportSection& section) {
  return !section.charts.empty() || !section.tables.empty() || !section.grids.empty();
}

}  // namespace

std::vector<ReportSection> report_sections(const Report& report) {
  check_grids(report);
  const auto filled = [](ReportTable table) {
    return table.rows.empty() ? std::vector<ReportTable>() : std::vector{std::move(table)};
  };
  std::vector<ReportSection> sections = {
      {"overview", "Scores at a glance", "", "", {}, filled(overview_table(report)), {}},
      {"budget",
       "Quality against keys read",
       "",
       "Bars are 95 % intervals. The further left, the fewer keys were read.",
       budget_charts(report),
       {},
       {}},
      {"equal", "At equal budgets", equal_text, "", {}, equal_tables(report), {}},
      {"results", "Results", results_text, "", {}, filled(results_table(report)), {}},
      {"length",
       "Quality against length",
       "Items by the tokens of their contexts.",
       "Bars are 95 % intervals.",
       length_charts(report),
       {},
       {}},
      {"needles",
       "Score by depth and length",
       "Mean scores by the place of what is asked for: 0 % depth is the beginning of the text.",
       "",
       {},
       {},
       needle_grids(report)},
      {"pairs",
       "Paired comparisons",
       "Both policies answered the same items. An interval that holds 0 does not show a "
       "difference. Holm's p allows for the number of comparisons.",
       "",
       {},
       filled(pairs_table(report)),
       {}},
      {"cost", "Speed and memory", "", "", {}, filled(cost_table(report)), {}},
      {"diagnostics", "Diagnostics", "", "", {}, {}, report.diagnostics}};
  for (ReportSection& section : sections)
    if (section.id == "cost" && !section.tables.empty()) section.charts = cost_charts(report);
  std::erase_if(sections, [](const ReportSection& section) { return !has_content(section); });
  return sections;
}

}  // namespace gsa::eval
