#include "attention/policy.h"

#include "attention/search_policy.h"
#include "attention/token_policy.h"
#include "core/error.h"

namespace gsa::attention {
namespace {

/// Policies whose visible set follows from the layout alone.
class StaticPolicy final : public Policy {
 public:
  StaticPolicy(PolicySpec spec, StaticRule rule) : Policy(std::move(spec)), rule_(rule) {}

  StaticRule context_rule(int) const override { return rule_; }
  StaticRule suffix_rule(std::int64_t) const override { return rule_; }
  bool selects(std::int64_t) const override { return false; }
  at::Tensor select(const SelectInput&, VisibleSet&) override { return {}; }
  bool uses_gists() const override { return rule_.kind == StaticRule::Kind::gist; }
  bool is_query_aware() const override { return false; }

 private:
  StaticRule rule_;
};

}  // namespace

std::unique_ptr<Policy> make_policy(const PolicySpec& spec) {
  using Kind = StaticRule::Kind;
  const auto fixed = [&](Kind kind, std::int64_t window) {
    StaticRule rule;
    rule.kind = kind;
    rule.window = window;
    return std::make_unique<StaticPolicy>(spec, rule);
  };
  if (spec.name == "full") return fixed(Kind::full, 0);
  if (spec.name == "gist-only") return fixed(Kind::gist, 0);
  if (spec.name == "streaming") return fixed(Kind::window, spec.budget.tokens);
  if (spec.name == "gsa" || spec.name == "meanpool") return make_chunk_search(spec);
  if (spec.name == "quest") return make_quest_search(spec);
  if (spec.name == "random") return make_random_search(spec);
  if (spec.name == "snapkv") return make_snapkv(spec);
  if (spec.name == "h2o") return make_h2o(spec);
  if (spec.name == "oracle") return make_oracle(spec);
  core::input_error("unknown policy '{}'", spec.name);
}

}  // namespace gsa::attention
