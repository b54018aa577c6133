#include "report_sample.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace gsa::eval {
namespace {

struct Policy {
  const char* series;
  const char* spec;
  std::int64_t ratio;
  double fraction_read;
  double quality;  // of full attention's score
};

const Policy policies[] = {
    {"full", "full", 0, 1, 1},
    {"gsa", "gsa@8", 8, 0.17, 0.93},
    {"gsa", "gsa@16", 16, 0.093, 0.88},
    {"gsa", "gsa@32", 32, 0.051, 0.74},
    {"gsa, two levels", "gsa@4-4:select=ratio,ratio=16,mode=group,gists=all,sinks=4,local=1", 16,
     0.081, 0.9},
    {"snapkv", "snapkv:tokens=512", 8, 0.16, 0.86},
    {"quest", "quest@16", 16, 0.11, 0.84},
    {"meanpool", "meanpool@8", 8, 0.16, 0.8},
    {"streaming", "streaming:tokens=512", 8, 0.15, 0.41},
    {"random", "random@8", 8, 0.16, 0.35},
};

struct Task {
  const char* name;
  const char* metric;
  ScoreKind kind;
  double score;  // of full attention
};

const Task tasks[] = {
    {"hotpotqa", "F1", ScoreKind::points, 41.3},
    {"<script>alert('task')</script> & \"friends\" | `qa`", "ROUGE-L", ScoreKind::points, 88},
    {"pg19 by distance", "perplexity", ScoreKind::perplexity, 14.2},
};

Interval around(double mean, double half) { return {mean, mean - half, mean + half}; }

double score_of(const Task& task, const Policy& policy) {
  return task.kind == ScoreKind::points ? task.score * policy.quality : task.score / policy.quality;
}

ReportRow row_of(const Task& task, const Policy& policy) {
  const bool has_gists = std::string_view(policy.series).starts_with("gsa");
  ReportRow row;
  row.task = task.name;
  row.policy = policy.spec;
  row.adapter = has_gists ? "gsa-smollm2-135m-gist" : "gsa-smollm2-135m-full-ft";
  row.context_read = has_gists ? "gist mask" : "full attention";
  row.is_query_aware = has_gists || policy.series == std::string_view("quest");
  row.num_items = 200;
  row.metric = task.metric;
  row.kind = task.kind;
  row.score = around(score_of(task, policy), task.kind == ScoreKind::points ? 4 : 0.4);
  if (task.kind == ScoreKind::points)
    row.secondary = {{"exact match", 0.7 * row.score.mean}, {"contains", 0.8 * row.score.mean}};
  row.nominal_ratio = policy.ratio;
  row.fraction_read = policy.fraction_read;
  row.prefill_fraction = has_gists ? 0.13 : 1;
  row.context_tokens = 5213.4;
  row.answer_tokens = 7.25;
  row.prefill_seconds = has_gists ? 2.31 : 4.62;
  row.decode_ms_per_token = 18 + 22 * policy.fraction_read;
  row.kv_bytes_per_token = has_gists ? 25920 : 23040;
  row.peak_memory_bytes = 1.234e9;
  row.num_below_floor = policy.ratio == 32 ? 12 : 0;
  row.num_truncated = 3;
  return row;
}

BudgetGroup group_of(const Task& task) {
  BudgetGroup group{task.name, "gsa@16", 0.093, 188, 12, {}};
  for (const char* policy : {"gsa@16", "snapkv:match=gsa@16", "quest@16:match=gsa@16",
                             "streaming:match=gsa@16", "h2o:dense=20:match=gsa@16"}) {
    BudgetMember& member = group.members.emplace_back();
    member.policy = policy;
    member.adapter = policy[0] == 'g' ? "gsa-smollm2-135m-gist" : "gsa-smollm2-135m-full-ft";
    member.context_read = policy[0] == 'g' ? "gist mask" : "full attention";
    member.is_query_aware = policy[0] != 'h';
    member.is_off = policy[0] == 'q';
    member.is_out = policy[0] == 'h';
    member.fraction_read = member.is_off ? 0.104 : member.is_out ? 0.31 : 0.093;
    if (!member.is_out) member.score = around(task.score * 0.8, 0.4);
  }
  return group;
}

void add_needles(Report& report) {
  for (const char* policy : {"full", "gsa@16"}) {
    for (const std::int64_t length : {1024, 2048, 4096, 8192}) {
      for (int depth = 0; depth <= 4; ++depth) {
        const double lost = policy[0] == 'f' ? 0 : 0.006 * std::sqrt(double(length)) * (4 - depth);
        report.needles.push_back(
            {"passkey", policy, length, depth / 4.0, std::max(0.0, 100 - 40 * lost), 10});
      }
    }
  }
}

HeatMap recall_grid() {
  HeatMap grid{
      "Recall of the answer's chunk", "gsa@16 on hotpotqa", "layer", "head", {}, {}, {}, 0, 1, 2};
  for (int layer = 1; layer < 30; ++layer) grid.row_names.push_back(std::to_string(layer));
  for (int head = 0; head < 9; ++head) grid.column_names.push_back(std::to_string(head));
  for (int layer = 1; layer < 30; ++layer)
    for (int head = 0; head < 9; ++head)
      grid.values.push_back(0.5 + 0.5 * std::sin(0.37 * layer + head * head));
  return grid;
}

}  // namespace

Report sample_report() {
  Report report;
  report.title = "Evaluation of SmolLM2-135M <b>&</b> friends";
  report.model =
      "models/a-rather-long-folder-name/SmolLM2-135M-Instruct-with-a-long-suffix.Q8_0.gguf";
  report.command =
      "gsa eval --model smollm2 --tasks hotpotqa.jsonl,'</script><img src=x>.jsonl' --policies "
      "full,gsa@8,gsa@16,gsa@32,gsa@4-4:select=ratio,ratio=16,mode=group --report report.html";
  report.date = "2026-11-25";
  report.notes = {"Three tasks, 200 items each; the numbers of this page are made up.",
                  "A note with <markup>, *stars* and a | bar."};
  for (const Task& task : tasks) {
    for (const Policy& policy : policies) {
      const ReportRow& row = report.rows.emplace_back(row_of(task, policy));
      report.budgets.push_back(
          {task.name, policy.series, policy.spec, policy.fraction_read, row.score});
    }
  }
  for (const Task& task : tasks) report.equal_budgets.push_back(group_of(task));
  for (const Policy& policy : policies) {
    for (const auto& [low, high] :
         {std::pair{512, 1023}, {1024, 2047}, {2048, 4095}, {4096, 8191}}) {
      const double score = score_of(tasks[0], policy) * (1 - policy.quality * low / 20000.0);
      report.lengths.push_back({tasks[0].name, policy.spec, low, high, 50, around(score, 8)});
    }
    if (policy.spec != std::string_view("gsa@8"))
      report.pairs.push_back({tasks[0].name, "gsa@8", policy.spec, 200,
                              around(tasks[0].score * (0.93 - policy.quality), 3),
                              policy.quality > 0.8 ? 0.21 : 0.0004,
                              policy.quality > 0.8 ? 0.63 : 0.0036});
  }
  add_needles(report);
  report.diagnostics = {recall_grid()};
  return report;
}

}  // namespace gsa::eval
