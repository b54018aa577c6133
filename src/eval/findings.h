#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "eval/diagnose_tasks.h"
#include "eval/entrant.h"
#include "eval/report.h"
#include "eval/runner.h"
#include "eval/summary.h"

namespace gsa::eval {

/// What a run found, in numbers.
struct Findings {
  std::vector<Summary> summaries;
  std::vector<EqualBudget> equal_budgets;
  std::vector<Comparison> comparisons;  ///< with the baseline, if there is one
  std::vector<LengthBucket> lengths;
  std::vector<DepthCell> depths;
  std::vector<TaskDiagnosis> diagnoses;  ///< if they were asked for
  bool wants_diagnoses = false;          ///< whether they were
  std::vector<Failure> failures;
};

/// `baseline` is an entrant's name, or empty. A policy of matched budget is summed up over the
/// items of its table of equal budgets alone.
Findings find(const RunResult& result, std::span<const Matched> matched,
              const std::string& baseline);

/// What the numbers cannot say, in sentences: tasks of few items, or whose answers stand in no text
/// although diagnostics were asked for.
std::vector<std::string> cautions(const Findings& findings);

/// What the head of a report says.
struct ReportHead {
  std::string title, model, command, date;
  std::vector<std::pair<std::string, std::string>> facts = {};  ///< as in `Report`
};

/// The findings as a report that can be written to a file. Scores are from 0 to 100 there.
Report make_report(const Findings& findings, std::span<const Entrant> entrants, ReportHead head);

}  // namespace gsa::eval
