#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "eval/answering.h"
#include "eval/entrant.h"
#include "eval/report.h"
#include "eval/task.h"

namespace gsa::eval {

/// What a policy saw of a task's items whose answer stands in their context; means over items, of
/// the layers in which the policy chooses if there are any.
struct TaskDiagnosis {
  std::string task, policy;
  std::int64_t num_items = 0;
  double answer_recall = 0;    ///< share of the answer's tokens that are visible
  double mass_recovered = 0;   ///< share of full attention that falls on visible keys
  double choice_entropy = 0;   ///< nats, of what is chosen over chunks
  std::vector<HeatMap> grids;  ///< of `heat_maps`, with the task in their titles
};

/// Diagnoses the first `num_items` items of a task that state their answer word by word in the
/// context, for all entrants that play it. No task or policy without such items is in the result;
/// texts to be predicted have none.
std::vector<TaskDiagnosis> diagnose_task(const Task& task, std::span<const Entrant> entrants,
                                         std::int64_t num_items, const AnswerOptions& options);

}  // namespace gsa::eval
