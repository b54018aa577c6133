#include "eval/report.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <sstream>
#include <string>
#include <vector>

#include "core/file.h"
#include "report_sample.h"
#include "support/errors.h"
#include "support/temp_dir.h"

namespace gsa::eval {
namespace {

using testing::HasSubstr;
using testing::Not;
using testing::StartsWith;

using CsvRow = std::vector<std::string>;

/// Reads what RFC 4180 describes, and nothing more lenient.
std::vector<CsvRow> parse_csv(const std::string& text) {
  std::vector<CsvRow> rows;
  CsvRow row;
  std::size_t i = 0;
  while (i < text.size()) {
    std::string field;
    if (text[i] == '"') {
      for (++i; text.at(i) != '"' || (i + 1 < text.size() && text[i + 1] == '"'); ++i) {
        if (text[i] == '"') ++i;
        field += text[i];
      }
      ++i;
    } else {
      for (; text.at(i) != ',' && text[i] != '\r'; ++i) {
        EXPECT_NE(text[i], '"');
        EXPECT_NE(text[i], '\n');
        field += text[i];
      }
    }
    row.push_back(field);
    if (text.at(i) == ',') {
      ++i;
      continue;
    }
    EXPECT_EQ(text.substr(i, 2), "\r\n");
    i += 2;
    rows.push_back(std::move(row));
    row.clear();
  }
  EXPECT_TRUE(row.empty()) << "the last line has an end";
  return rows;
}

/// The lines of a section, by column.
std::vector<std::map<std::string, std::string>> csv_section(const Report& report,
                                                            const std::string& section) {
  const auto rows = parse_csv(to_csv(report));
  std::vector<std::map<std::string, std::string>> found;
  for (std::size_t i = 1; i < rows.size(); ++i) {
    EXPECT_EQ(rows[i].size(), rows[0].size());
    std::map<std::string, std::string> line;
    for (std::size_t k = 0; k < rows[i].size(); ++k) line[rows[0][k]] = rows[i][k];
    if (line["section"] == section) found.push_back(line);
  }
  return found;
}

int count(const std::string& text, const std::string& part) {
  int number = 0;
  for (auto i = text.find(part); i != std::string::npos; i = text.find(part, i + 1)) ++number;
  return number;
}

Report one_row() {
  Report report;
  report.title = "One row";
  ReportRow row;
  row.task = "qa";
  row.policy = "gsa@16";
  row.num_items = 1200;
  row.metric = "F1";
  row.score = {41.26, 38, 44.449};
  row.fraction_read = 0.0934;
  report.rows = {row};
  return report;
}

TEST(ReportFormat, FollowsTheEnding) {
  EXPECT_EQ(report_format("a.html"), ReportFormat::html);
  EXPECT_EQ(report_format("b/a.HTM"), ReportFormat::html);
  EXPECT_EQ(report_format("a.csv.md"), ReportFormat::markdown);
  EXPECT_EQ(report_format("a.markdown"), ReportFormat::markdown);
  EXPECT_EQ(report_format("a.csv"), ReportFormat::csv);
  for (const char* name : {"report", "report.pdf", ".html", "html", ""}) {
    EXPECT_THAT(test::error_of([&] { report_format(name); }),
                test::IsError(ErrorKind::input, ".html, .md or .csv"));
  }
}

TEST(ReportFile, IsWrittenInTheFormatOfItsEnding) {
  const test::TempDir folder;
  const Report report = sample_report();
  for (const auto& [name, text] : {std::pair("a.html", to_html(report)),
                                   {"a.md", to_markdown(report)},
                                   {"a.csv", to_csv(report)}}) {
    write_report(report, folder / name);
    EXPECT_EQ(core::read_file(folder / name), text);
  }
}

TEST(ReportCsv, KeepsEveryNumberAndName) {
  const Report report = sample_report();
  const auto results = csv_section(report, "result");
  ASSERT_EQ(results.size(), report.rows.size());
  for (std::size_t i = 0; i < results.size(); ++i) {
    auto line = results[i];
    const ReportRow& row = report.rows[i];
    EXPECT_EQ(line["task"], row.task);
    EXPECT_EQ(line["policy"], row.policy);
    EXPECT_EQ(std::stod(line["score"]), row.score.mean) << "not rounded";
    EXPECT_EQ(std::stod(line["score_high"]), row.score.high);
    EXPECT_EQ(std::stod(line["kv_bytes_per_token"]), row.kv_bytes_per_token);
    EXPECT_EQ(line["query_aware"], row.is_query_aware ? "true" : "false");
  }
  EXPECT_EQ(csv_section(report, "secondary").size(), 40U);
  EXPECT_EQ(csv_section(report, "budget").size(), report.budgets.size());
  const auto equal = csv_section(report, "equal_budget");
  ASSERT_EQ(equal.size(), 3U * 5U);
  auto off = equal[2], out = equal[4];
  EXPECT_EQ(off["policy"], "quest@16:match=gsa@16");
  EXPECT_EQ(off["target"], "gsa@16");
  EXPECT_EQ(off["n"], "188");
  EXPECT_EQ(off["fraction_read"], "0.104");
  EXPECT_EQ(off["fraction_target"], "0.093");
  EXPECT_EQ(off["off_target"], "true");
  EXPECT_EQ(out["score"], "");
  EXPECT_EQ(out["n"], "0");
  EXPECT_EQ(csv_section(report, "length").size(), report.lengths.size());
  EXPECT_EQ(csv_section(report, "needle").size(), report.needles.size());
  EXPECT_EQ(csv_section(report, "pair").size(), report.pairs.size());
  EXPECT_EQ(csv_section(report, "diagnostic").size(), 29U * 9U);
}

TEST(ReportCsv, QuotesWhatWouldEndAField) {
  Report report = one_row();
  for (const char* name :
       {"a,b", "\"", "say \"a\", \"b\"", "line\nbreak", "cr\rlf\r\n", "", " spaces "}) {
    report.rows[0].task = name;
    EXPECT_EQ(csv_section(report, "result").at(0)["task"], name);
  }
}

TEST(ReportCsv, LeavesWhatWasNotMeasuredEmpty) {
  Report report = one_row();
  report.rows[0].score = {not_measured, not_measured, not_measured};
  auto line = csv_section(report, "result").at(0);
  for (const char* name : {"score", "score_low", "prefill_seconds", "nominal_ratio", "p_value"})
    EXPECT_EQ(line[name], "") << name;
  EXPECT_EQ(line["adapter"], "none") << "as tables say";
  EXPECT_EQ(parse_csv(to_csv(Report())).size(), 1U) << "the heading alone";
}

TEST(ReportMarkdown, IsATable) {
  const std::string text = to_markdown(one_row());
  EXPECT_THAT(text, StartsWith("# One row\n\n## Results\n"));
  EXPECT_THAT(
      text,
      HasSubstr(
          "\n| gsa@16 | qa | 41.3 (38.0 to 44.4) | F1 | 1,200 | 9.3 % | – | none | – | no |"));
  EXPECT_THAT(text, Not(HasSubstr("Speed"))) << "nothing was measured";
  EXPECT_THAT(text, Not(HasSubstr("glance"))) << "one task needs no overview";
  EXPECT_EQ(to_markdown(Report()), "# \n");
}

TEST(ReportMarkdown, HasEverySectionOfTheSample) {
  const std::string text = to_markdown(sample_report());
  for (const char* heading :
       {"Scores at a glance", "At equal budgets", "Results", "Quality against length",
        "Score by depth and length", "Paired comparisons", "Speed and memory", "Diagnostics"})
    EXPECT_THAT(text, HasSubstr(std::string("\n## ") + heading + "\n"));
  EXPECT_THAT(text, Not(HasSubstr("Bars"))) << "there are no charts";
  // Every line of a table has as many cells as the one above it.
  std::istringstream stream(text);
  int last = 0, num_lines = 0;
  for (std::string line; std::getline(stream, line);) {
    if (!line.starts_with('|')) {
      last = 0;
      continue;
    }
    const int cells = count(line, "|") - count(line, "\\|");
    EXPECT_TRUE(last == 0 || cells == last) << line;
    last = cells;
    ++num_lines;
  }
  EXPECT_GT(num_lines, 100);
}

TEST(ReportMarkdown, DoesNotRepeatResultsWithoutTheirCharts) {
  Report report = one_row();
  report.budgets = {{"qa", "gsa", "gsa@16", 0.09, report.rows[0].score}};
  report.lengths = {{"qa", "gsa@16", 0, 511, 9, report.rows[0].score}};
  EXPECT_EQ(to_markdown(report), to_markdown(one_row()));
  EXPECT_EQ(count(to_html(report), "<canvas"), 2);
  report.lengths.push_back({"qa", "gsa@16", 512, 1023, 9, report.rows[0].score});
  EXPECT_THAT(to_markdown(report), HasSubstr("| gsa@16 | 0 to 511 | 9 |"));
}

TEST(ReportHead, NamesWhatTheNumbersDependOn) {
  Report report = one_row();
  report.facts = {{"Adapters", "a_b.safetensors"}, {"Computed in", "f32 on cpu"}};
  EXPECT_THAT(to_markdown(report),
              HasSubstr("\n\nAdapters: a\\_b.safetensors\n\nComputed in: f32 on cpu\n\n"));
  EXPECT_THAT(to_html(report), HasSubstr("<dt>Computed in</dt><dd>f32 on cpu</dd>"));
}

TEST(ReportMarkdown, NamesAreNoMarkup) {
  Report report = one_row();
  report.rows[0].task = "a|b *c*\n<script> `d` [e](f)";
  report.command = "gsa ```";
  const std::string text = to_markdown(report);
  EXPECT_THAT(text, HasSubstr("| a\\|b \\*c\\* \\<script\\> \\`d\\` \\[e\\](f) |"));
  EXPECT_THAT(text, HasSubstr("\n````\ngsa ```\n````\n"));
}

TEST(ReportTables, OverviewComparesOnlyWholeRows) {
  Report report = one_row();
  ReportRow row = report.rows[0];
  row.task = "summary";
  row.score.mean = 21.26;
  report.rows.push_back(row);
  row.policy = "full";
  report.rows.push_back(row);
  row.task = "pg19";
  row.kind = ScoreKind::perplexity;
  row.score.mean = 14.126;
  report.rows.push_back(row);
  const std::string text = to_markdown(report);
  EXPECT_THAT(text, HasSubstr("; means of scores leave perplexities out:\n"));
  EXPECT_THAT(text, HasSubstr("| qa (F1) | summary (F1) | pg19 (F1) | mean of 2 tasks |"));
  EXPECT_THAT(text, HasSubstr("| gsa@16 | none | 9.3 % | 41.3 | 21.3 | – | 31.3 |"));
  EXPECT_THAT(text, HasSubstr("| full | none | 9.3 % | – | 21.3 | 14.13 | – |"));
}

TEST(ReportTables, EqualBudgetsSayWhoReadWhatOnWhichItems) {
  Report report = one_row();
  BudgetMember target{"gsa@16", "gists", "gist mask", true, 0.1, {40, 30, 50}};
  BudgetMember off{"streaming:match=gsa@16", "", "window", false, 0.112, {20, 10, 30}, true};
  BudgetMember out{"h2o:match=gsa@16", "", "full attention"};
  out.fraction_read = 0.3;
  out.is_out = true;
  report.equal_budgets = {{"qa", "gsa@16", 0.1, 1190, 10, {target, off, out}}};
  const std::string text = to_markdown(report);
  EXPECT_THAT(text, HasSubstr("## At equal budgets\n"));
  EXPECT_THAT(text, HasSubstr("qa, as much as gsa@16 (10.0 % of the keys), n = 1,190; 10 items "
                              "shorter than a policy's floor left out:\n"));
  EXPECT_THAT(text,
              HasSubstr("| gsa@16 | 40.0 (30.0 to 50.0) | 10.0 % | gists | gist mask | yes |"
                        "\n| streaming:match=gsa@16 | 20.0 (10.0 to 30.0) | 11.2 % \\* | none "
                        "| window | no |\n| h2o:match=gsa@16 | out | 30.0 % | none | full "
                        "attention | no |\n"));
}

TEST(ReportTables, OneItemHasNoInterval) {
  Report report = one_row();
  report.rows[0].score = {12, not_measured, not_measured};
  EXPECT_THAT(to_markdown(report), HasSubstr("| gsa@16 | qa | 12.0 (–) | F1 |"));
}

TEST(ReportTables, DifferencesOfPerplexitiesAreInNats) {
  Report report = one_row();
  report.rows[0].kind = ScoreKind::perplexity;
  report.pairs = {{"qa", "gsa@16", "full", 20, {0.0512, 0.04, 0.06}, 0.01, 0.02}};
  EXPECT_THAT(to_markdown(report), HasSubstr("| +0.051 (+0.040 to +0.060) nats |"));
  EXPECT_EQ(csv_section(report, "pair").at(0)["metric"], "loss in nats per token");
}

TEST(ReportTables, NumbersAreThoseOfPeople) {
  Report report = one_row();
  ReportRow& row = report.rows[0];
  row.context_tokens = 5213.4;
  row.answer_tokens = 7.25;
  row.prefill_seconds = 0.012345;
  row.decode_ms_per_token = 123.4;
  row.kv_bytes_per_token = 23040;
  row.peak_memory_bytes = 1.55e9;
  report.pairs = {{"qa", "gsa@16", "full", 200, {-1.25, -3.05, 0.5}, 0.0004, 0.0012}};
  const std::string text = to_markdown(report);
  EXPECT_THAT(text,
              HasSubstr("| gsa@16 | qa | 5,213 | 7.2 | 0.0123 | – | 123 | 23 kB | 1.55 GB |"));
  EXPECT_THAT(text,
              HasSubstr("| gsa@16 | full | qa | -1.2 (-3.0 to +0.5) | 200 | \\< 0.001 | 0.001 |"));
}

TEST(ReportTables, NeedlesStandInOrderWithGaps) {
  Report report;
  report.needles = {{"passkey", "full", 2048, 1, 50, 4}, {"passkey", "full", 1024, 0, 100, 6}};
  const std::string text = to_markdown(report);
  EXPECT_THAT(text, HasSubstr("4 to 6 items per cell"));
  report.needles.resize(1);
  report.needles[0].num_items = 1;
  EXPECT_THAT(to_markdown(report), HasSubstr("\n1 item per cell\n"));
  EXPECT_THAT(
      text, HasSubstr("| 1,024 | 2,048 |\n|---|--:|--:|\n| 0 % | 100 | – |\n| 100 % | – | 50 |\n"));
}

TEST(ReportHtml, EscapesNamesEverywhere) {
  const std::string text = to_html(sample_report());
  EXPECT_THAT(text, Not(HasSubstr("<script>alert")));
  EXPECT_THAT(text, Not(HasSubstr("<img")));
  EXPECT_THAT(text, Not(HasSubstr("<b>&")));
  EXPECT_THAT(
      text,
      HasSubstr("&lt;script&gt;alert(&#39;task&#39;)&lt;/script&gt; &amp; &quot;friends&quot;"));
  EXPECT_EQ(count(text, "<script"), count(text, "</script>"));
}

TEST(ReportHtml, NothingInAScriptEndsIt) {
  Report report;
  report.budgets = {{"</script><!--", "</SCRIPT>", "a\"\\\xFF", 0.5, {50, 40, 60}}};
  const std::string text = to_html(report);
  const auto begin = text.find("<script type=\"application/json\"");
  const std::string json = text.substr(begin, text.find("</script>", begin) - begin);
  EXPECT_EQ(count(json, "<"), 1);
  EXPECT_THAT(json, HasSubstr("\\u003c/SCRIPT>"));
  EXPECT_THAT(json, HasSubstr("a\\\"\\\\\uFFFD"));
}

TEST(ReportHtml, AsksForNothingFromOutside) {
  const std::string text = to_html(sample_report());
  EXPECT_THAT(text, HasSubstr("default-src 'none'"));
  for (const char* part : {"<link", "<iframe", " src=\"", "@import", "url(", "sourceMappingURL"})
    EXPECT_THAT(text, Not(HasSubstr(part)));
}

TEST(ReportHtml, LeavesEmptySectionsOut) {
  const std::string text = to_html(Report());
  EXPECT_EQ(count(text, "<section"), 0);
  EXPECT_THAT(text, Not(HasSubstr("Chart.js v"))) << "no library where there is no chart";
  EXPECT_EQ(count(to_html(one_row()), "<section"), 1);
  EXPECT_EQ(count(to_html(sample_report()), "<section"), 9);
}

TEST(Report, RefusesGridsOfAnotherSize) {
  Report report;
  report.diagnostics = {{"recall", "", "layer", "head", {"0", "1"}, {"0"}, {1.0}}};
  for (auto* writer : {to_html, to_markdown, to_csv}) {
    EXPECT_THAT(
        test::error_of([&] { writer(report); }),
        test::IsError(ErrorKind::internal, "'recall' has 1 values for 2 rows and 1 columns"));
  }
}

}  // namespace
}  // namespace gsa::eval
