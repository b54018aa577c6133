#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "eval/answering.h"
#include "eval/entrant.h"
#include "eval/task.h"

namespace gsa::eval {

/// How much matched policies are to read.
struct MatchTarget {
  std::string name;                         ///< of the policy in results, or the share: "0.12"
  std::optional<double> fraction;           ///< of the keys full attention reads
  std::optional<engine::PolicyRun> policy;  ///< unset fraction: as much as this policy reads

  /// Gives a policy its model, and the name it has there.
  void set_model(std::shared_ptr<const model::Model> model);
};

/// Reads "0.12" (above 0, at most 1) or a policy. The model of a policy is left to the caller
/// (`set_model`).
MatchTarget parse_target(std::string_view text);

/// The budget that was found for one entrant and task.
struct Matched {
  std::string task;
  std::string entrant;  ///< its name
  std::string target;   ///< the target's name
  double wanted = 0;    ///< fraction of keys that the target reads
  double measured = 0;  ///< that the entrant reads with this budget
  double floor = 0;     ///< that it reads with the smallest budget
  double share = 0;     ///< tokens of the budget by tokens of the context
  bool is_found =
      false;  ///< false: no budget comes within `kTolerance`; `floor` or `measured` tell
  std::int64_t num_items = 0;        ///< of the calibration split that were used
  std::int64_t num_below_floor = 0;  ///< left out: some entrant's floor is above the target there
};

/// Largest difference of a measured fraction from the target's, by the target's.
inline constexpr double kTolerance = 0.05;

/// Finds, by bisection on items that are not scored, what budget lets each entrant with a target
/// read as much as that target: the mean of the measured fraction over the items. A budget is a
/// share of the item's context, so that long and short items are compressed alike. Measuring takes
/// the question and one token more; contexts are read once for all entrants that read them alike,
/// and not at all for policies that do not select. Entrants whose floor is above the target on
/// average cannot match it; of the rest, items on which a floor is above it are left out.
/// Input error if a task has no items.
std::vector<Matched> calibrate(const Task& items, std::span<const MatchTarget> targets,
                               std::span<const Entrant> entrants, const AnswerOptions& options);

/// Hands the budgets found to the entrants.
void set_budgets(std::span<const Matched> matched, std::vector<Entrant>& entrants);

/// Those of the entrants with a target that have no budget among `matched`.
std::vector<Entrant> without_budget(std::span<const Entrant> entrants,
                                    std::span<const Matched> matched);
/// Budgets of the entrants alone, in their order.
std::vector<Matched> budgets_of(std::span<const Entrant> entrants,
                                std::span<const Matched> matched);

/// Keeps what was found on the items of a task, so that a run that goes on uses the same budgets.
void write_matched(std::span<const Matched> matched, const std::string& run_name, const Task& items,
                   const std::filesystem::path& path);
/// All that the file holds; nothing if it is not there, of another run or of other items.
std::vector<Matched> read_matched(const std::string& run_name, const Task& items,
                                  const std::filesystem::path& path);

}  // namespace gsa::eval
