#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "eval/interval.h"

namespace gsa::eval {

enum class ScoreKind {
  points,      ///< F1, ROUGE-L, accuracy ...: from 0 to 100, more is better
  perplexity,  ///< from 1, less is better; no part of means over tasks
};

/// How one policy did on one task; the numbers are means over the items counted in `num_items`.
struct ReportRow {
  std::string task;
  std::string policy;
  std::string adapter;       ///< empty: the model as it is
  std::string context_read;  ///< how the context was read: "full attention", "gist mask", "window"
  bool is_query_aware = false;  ///< whether what was kept or read depends on the question
  std::int64_t num_items = 0;
  std::string metric;
  ScoreKind kind = ScoreKind::points;
  Interval score;  ///< as it is shown; low and high `not_measured`: no interval
  std::vector<std::pair<std::string, double>> secondary;  ///< other metrics, by name
  std::int64_t nominal_ratio = 0;                         ///< 0: the notion does not apply
  double fraction_read = not_measured;                    ///< of the keys full attention reads
  double prefill_fraction = not_measured;
  double context_tokens = not_measured;
  double answer_tokens = not_measured;
  double prefill_seconds = not_measured;
  double decode_ms_per_token = not_measured;
  double kv_bytes_per_token = not_measured;
  double peak_memory_bytes = not_measured;  ///< the largest of the items
  std::int64_t num_below_floor = 0;  ///< items left out: shorter than the policy can be read at
  std::int64_t num_truncated = 0;    ///< items cut in the middle to fit the model
};

/// A policy among those held to one budget.
struct BudgetMember {
  std::string policy;
  std::string adapter;       ///< as in `ReportRow`
  std::string context_read;  ///< as in `ReportRow`
  bool is_query_aware = false;
  double fraction_read = not_measured;  ///< on the items of the group; out: where it comes nearest
  Interval score = {not_measured, not_measured, not_measured};
  bool is_off = false;  ///< reads more or less than the target by more than the tolerance
  bool is_out = false;  ///< no budget comes near the target: it was not scored
};

/// Policies that read as much of a task as a target does, on the same items.
struct BudgetGroup {
  std::string task;
  std::string target;                     ///< a policy or a share
  double target_fraction = not_measured;  ///< of the keys that the target reads on these items
  std::int64_t num_items = 0;
  std::int64_t num_below_floor = 0;  ///< items left out, as in `ReportRow`
  std::vector<BudgetMember> members;
};

/// A point of the curve of quality against what was read. Points of one task and series are joined.
struct BudgetPoint {
  std::string task;
  std::string series;  ///< what the points have in common: "gsa"
  std::string policy;  ///< the point's own: "gsa@16"
  double fraction_read = not_measured;
  Interval score;
};

/// The items of a task whose contexts have between `min_tokens` and `max_tokens` tokens.
struct LengthPoint {
  std::string task;
  std::string policy;
  std::int64_t min_tokens = 0;
  std::int64_t max_tokens = 0;  ///< inclusive
  std::int64_t num_items = 0;
  Interval score;
};

/// Needles hidden at one depth of contexts of one length.
struct NeedleCell {
  std::string task;
  std::string policy;
  std::int64_t length = 0;      ///< tokens
  double depth = 0;             ///< 0: at the beginning, 1: at the end
  double score = not_measured;  ///< 0 to 100
  std::int64_t num_items = 0;
};

/// Two policies on the same items.
struct PairedComparison {
  std::string task;
  std::string policy_a;
  std::string policy_b;
  std::int64_t num_items = 0;
  Interval difference;  ///< of the scores, a minus b; of perplexities that of the losses in nats
                        ///< per token
  double p_value = not_measured;
  double adjusted_p_value = not_measured;  ///< for being one of several comparisons (Holm 1979)
};

/// A grid of numbers, as recall per layer and head.
struct HeatMap {
  std::string title;
  std::string text;  ///< what the numbers say; may be empty
  std::string row_title;
  std::string column_title;
  std::vector<std::string> row_names;
  std::vector<std::string> column_names;
  std::vector<double> values;  ///< row by row, row_names x column_names
  double low = 0, high = 1;    ///< ends of the colour scale
  int num_digits = 2;          ///< after the point
};

/// What an evaluation found, for people to read. Names are free text (UTF-8); a section without
/// entries is left out. Rows, series and grids keep the order in which they first occur.
struct Report {
  std::string title;
  std::string model;
  std::string command;                                     ///< that makes the report again
  std::string date;                                        ///< as it is to be shown
  std::vector<std::pair<std::string, std::string>> facts;  ///< what else its head says, by name
  std::vector<std::string> notes;                          ///< sentences, each a paragraph
  std::vector<ReportRow> rows;
  std::vector<BudgetPoint> budgets;
  std::vector<BudgetGroup> equal_budgets;
  std::vector<LengthPoint> lengths;
  std::vector<NeedleCell> needles;
  std::vector<PairedComparison> pairs;
  std::vector<HeatMap> diagnostics;
};

/// One self-contained page: tables, charts, styles and scripts; it asks for nothing from outside.
/// Internal error if a heat map's values are not as many as its names say (so the other two).
std::string to_html(const Report& report);

/// Tables as GitHub's Markdown has them.
std::string to_markdown(const Report& report);

/// All numbers unrounded as one table of RFC 4180. The first column, `section`, says what a line
/// is: result, secondary, budget, equal_budget, length, needle, pair or diagnostic; cells that a
/// section does not have are empty.
std::string to_csv(const Report& report);

enum class ReportFormat { html, markdown, csv };

/// By the file's ending: .html, .htm, .md, .markdown, .csv. Input error for any other.
ReportFormat report_format(const std::filesystem::path& path);

/// Writes the report whole or not at all, in the format that the ending names.
void write_report(const Report& report, const std::filesystem::path& path);

}  // namespace gsa::eval
