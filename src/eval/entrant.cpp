#include "eval/entrant.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "core/error.h"

namespace gsa::eval {

using attention::Budget;
using attention::PolicySpec;

Entrant::Entrant(engine::PolicyRun policy) : run(std::move(policy)), name(run.spec.to_string()) {}

Entrant::Entrant(engine::PolicyRun policy, std::string matched_target)
    : run(std::move(policy)),
      name(run.spec.to_string() + ":match=" + matched_target),
      target(std::move(matched_target)) {}

bool Entrant::plays(const std::string& task) const {
  return target.empty() || shares.contains(task);
}

PolicySpec Entrant::spec_for(const std::string& task, std::int64_t num_context) const {
  if (target.empty()) return run.spec;
  return with_tokens(run.spec, tokens_of_share(shares.at(task), num_context));
}

bool has_token_budget(const PolicySpec& spec) {
  try {
    PolicySpec::parse(with_tokens(spec, 1).to_string());
    return true;
  } catch (const Error&) {  // it does not take the key
    return false;
  }
}

bool has_default_budget(const PolicySpec& spec) {
  const Budget plain = PolicySpec::parse(spec.name).budget;
  return spec.budget.kind == plain.kind && spec.budget.ratio == plain.ratio &&
         spec.budget.tokens == plain.tokens;
}

PolicySpec with_tokens(PolicySpec spec, std::int64_t tokens) {
  spec.budget = {Budget::Kind::tokens, 0, tokens, 0};
  return spec;
}

std::int64_t tokens_of_share(double share, std::int64_t num_context) {
  return std::max<std::int64_t>(1, std::llround(share * static_cast<double>(num_context)));
}

Conditions conditions_of(const engine::PolicyRun& run) {
  using Kind = attention::StaticRule::Kind;
  const auto policy = attention::make_policy(run.spec);
  Conditions conditions;
  if (const model::AdapterInfo* adapter = run.model->adapter()) conditions.adapter = adapter->name;
  const Kind kind = policy->context_rule(attention::kRawLevel).kind;
  conditions.context_read = kind == Kind::gist     ? "gist mask"
                            : kind == Kind::window ? "window"
                                                   : "full attention";
  conditions.is_query_aware = policy->is_query_aware();
  return conditions;
}

Conditions conditions_of(std::span<const Entrant> entrants, std::string_view name) {
  const auto found = std::ranges::find(entrants, name, &Entrant::name);
  return found == entrants.end() ? Conditions{} : conditions_of(found->run);
}

}  // namespace gsa::eval
