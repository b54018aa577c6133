#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>

#include "engine/compare.h"

namespace gsa::eval {

/// A policy of an evaluation, with its model.
struct Entrant {
  engine::PolicyRun run;
  std::string name;  ///< in records and results: the policy's text, `:match=TARGET` behind it if
                     ///< its budget was matched
  std::string target = {};  ///< what its budget was matched to; empty: the policy has its own
  /// Of a matched policy, per task: `tokens` as a share of an item's context. It sits out tasks
  /// that are missing here.
  std::map<std::string, double> shares = {};

  explicit Entrant(engine::PolicyRun policy);
  /// A policy that is to read as much as a target does.
  Entrant(engine::PolicyRun policy, std::string matched_target);

  bool plays(const std::string& task) const;
  /// The policy for an item of a task whose context has so many tokens.
  attention::PolicySpec spec_for(const std::string& task, std::int64_t num_context) const;
};

/// Whether a policy has the key `tokens`, so that its budget can be set to any amount.
bool has_token_budget(const attention::PolicySpec& spec);
/// Whether the user left the budget to the policy's default.
bool has_default_budget(const attention::PolicySpec& spec);
/// The same policy with a budget in tokens (at least 1).
attention::PolicySpec with_tokens(attention::PolicySpec spec, std::int64_t tokens);
/// A share of a context as a budget: at least one token.
std::int64_t tokens_of_share(double share, std::int64_t num_context);

/// What tells readers of a result how it came about.
struct Conditions {
  std::string adapter;       ///< its name; empty: the model as it is
  std::string context_read;  ///< "full attention", "gist mask" or "window"
  bool is_query_aware = false;
};
Conditions conditions_of(const engine::PolicyRun& run);
/// Those of the entrant of that name; nothing said if there is none.
Conditions conditions_of(std::span<const Entrant> entrants, std::string_view name);

}  // namespace gsa::eval
