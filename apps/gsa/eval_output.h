#pragma once

#include <optional>
#include <string>
#include <vector>

#include "eval/entrant.h"
#include "eval/findings.h"

namespace gsa::apps {

/// Tables for a terminal: scores, equal budgets, comparisons, what was skipped.
std::string eval_tables(const eval::Findings& findings, const std::vector<eval::Entrant>& entrants);

/// One JSON object, scores from 0 to 100 (perplexity as it is):
/// `{"model", "adapter", "results": [...], "equal_budgets": [...], "comparisons": [...],
/// "diagnostics": [...], "failures": [...]}`.
std::string eval_json(const eval::Findings& findings, const std::vector<eval::Entrant>& entrants,
                      const std::string& model, const std::optional<std::string>& adapters);

/// What `--list` shows: formats with metric and source of the prompt, generated tasks, policies.
std::string eval_list();
std::string eval_list_json();

}  // namespace gsa::apps
