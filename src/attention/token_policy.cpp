#include "attention/token_policy.h"

#include <ATen/ops/arange.h>
#include <ATen/ops/bmm.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/logaddexp.h>
#include <ATen/ops/logsumexp.h>
#include <ATen/ops/max_pool1d.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/zeros_like.h>

#include <algorithm>
#include <limits>

#include "attention/attend.h"
#include "attention/attend_parts.h"
#include "attention/attention_mass.h"
#include "core/error.h"

namespace gsa::attention {
namespace {

constexpr double kMinusInf = -std::numeric_limits<double>::infinity();

/// Context tokens per KV head that a budget pays for; may exceed the context.
std::int64_t num_kept(const PolicySpec& spec, std::int64_t num_raw) {
  if (spec.budget.kind == Budget::Kind::tokens) return spec.budget.tokens;
  return std::max<std::int64_t>(1, num_raw / spec.nominal_ratio());
}

at::Tensor ascending(const at::Tensor& ids) { return std::get<0>(ids.sort(-1)); }

/// What the static part of the visible set weighs in every query's softmax: [T, H].
at::Tensor static_lse(const SelectInput& input) {
  VisibleSet visible;
  visible.ranges = input.ranges;
  visible.layout = input.layout;
  return attend(input.q, *input.arenas, visible, input.scale).lse;
}

class TokenPolicy : public Policy {
 public:
  using Policy::Policy;

  StaticRule context_rule(int) const override { return {}; }
  StaticRule suffix_rule(std::int64_t) const override {
    StaticRule rule;
    rule.kind = StaticRule::Kind::suffix;
    return rule;
  }
  bool selects(std::int64_t) const override { return true; }
  bool uses_gists() const override { return false; }
};

/// State of a layer, made when it is first asked for.
template <typename T>
T& of_layer(std::vector<T>& layers, std::int64_t layer) {
  if (std::ssize(layers) <= layer) layers.resize(layer + 1);
  return layers[layer];
}

class Oracle final : public TokenPolicy {
 public:
  explicit Oracle(PolicySpec spec) : TokenPolicy(std::move(spec)) {}

  bool is_query_aware() const override { return true; }

  at::Tensor select(const SelectInput& input, VisibleSet& visible) override {
    const Range context{0, input.layout->num_raw()};
    if (context.size() == 0) return {};
    const std::int64_t num_queries = input.q.size(0);
    const std::int64_t k = std::min(context.size(), num_kept(spec(), context.size()));
    const at::Tensor suffix_lse = static_lse(input);
    const std::int64_t step = score_block_len(input.q.size(1), context.size());
    std::vector<at::Tensor> chosen;
    for (std::int64_t begin = 0; begin < num_queries; begin += step) {
      const std::int64_t count = std::min(step, num_queries - begin);
      const at::Tensor scores = raw_scores(input.q.narrow(0, begin, count), input.arenas->raw,
                                           context, input.scale);  // [t, H_kv, r, n]
      const at::Tensor rest =
          suffix_lse.narrow(0, begin, count).reshape({count, scores.size(1), scores.size(2), 1});
      const at::Tensor lse = at::logaddexp(at::logsumexp(scores, {-1}, true), rest);
      const at::Tensor mass = scores.sub(lse).exp_().sum(2);  // [t, H_kv, n]
      chosen.push_back(ascending(std::get<1>(mass.topk(k, -1))));
    }
    visible.tokens = chosen.size() == 1 ? chosen[0] : at::cat(chosen);
    return {};
  }
};

class SnapKv final : public TokenPolicy {
 public:
  explicit SnapKv(PolicySpec spec) : TokenPolicy(std::move(spec)) {}

  bool is_query_aware() const override { return true; }
  StaticRule suffix_rule(std::int64_t layer) const override {
    return in_prompt_ ? context_rule(kRawLevel) : TokenPolicy::suffix_rule(layer);
  }

  void begin_prompt() override {
    in_prompt_ = true;
    layers_.clear();
  }
  void end_prompt() override { in_prompt_ = false; }
  void truncate(std::int64_t) override { layers_.clear(); }

  at::Tensor select(const SelectInput& input, VisibleSet& visible) override {
    if (input.layout->num_raw() == 0) return {};
    Layer& layer = of_layer(layers_, input.layer);
    if (in_prompt_) {
      remember(layer, input.q);
      return {};
    }
    if (!layer.kept.defined()) {
      remember(layer, input.q.narrow(0, 0, 1));
      layer.kept = vote(input, layer.queries);
      layer.queries.reset();
    }
    visible.tokens = layer.kept.unsqueeze(0).expand({input.q.size(0), -1, -1});
    return {};
  }

 private:
  static constexpr std::int64_t kPoolLen = 7;

  struct Layer {
    at::Tensor queries;  // [<= window, H, d], the last ones of the prompt
    at::Tensor kept;     // [H_kv, k]
  };

  void remember(Layer& layer, const at::Tensor& q) const {
    at::Tensor all = layer.queries.defined() ? at::cat({layer.queries, q}) : q;
    const std::int64_t count = std::min(all.size(0), spec().window);
    layer.queries = all.narrow(0, all.size(0) - count, count).clone();
  }

  /// Tokens that stay behind the prompt whose last row is the first one of the input.
  at::Tensor vote(const SelectInput& input, const at::Tensor& queries) const {
    const std::int64_t num_raw = input.layout->num_raw(), num_voters = queries.size(0);
    const std::int64_t end = input.ranges->queries.begin + 1;
    VisibleSet all;
    all.layout = input.layout;
    all.ranges = std::make_shared<RangeTable>(visible_ranges(
        *input.layout, context_rule(kRawLevel), {kRawLevel, end - num_voters, num_voters}));
    const at::Tensor lse = attend(queries, *input.arenas, all, input.scale).lse;
    const at::Tensor mass = attention_mass(queries, lse, *input.arenas, *all.ranges, input.scale);

    const std::int64_t k = std::min(num_raw, num_kept(spec(), num_raw));
    const std::int64_t num_recent = std::clamp<std::int64_t>(spec().window - (end - num_raw), 0, k);
    const at::Tensor votes = mass.narrow(1, 0, num_raw - num_recent);
    at::Tensor recent = at::arange(num_raw - num_recent, num_raw, mass.options().dtype(at::kLong));
    recent = recent.expand({mass.size(0), -1});
    if (k == num_recent) return recent;
    const at::Tensor pooled = at::max_pool1d(votes, kPoolLen, 1, kPoolLen / 2);
    return at::cat({ascending(std::get<1>(pooled.topk(k - num_recent, -1))), recent}, -1);
  }

  bool in_prompt_ = false;
  std::vector<Layer> layers_;
};

class H2o final : public TokenPolicy {
 public:
  explicit H2o(PolicySpec spec) : TokenPolicy(std::move(spec)) {}

  bool is_query_aware() const override { return false; }
  bool observes_context() const override { return true; }

  void observe(std::int64_t layer, const at::Tensor& mass) override {
    at::Tensor& total = of_layer(observed_, layer);
    if (total.defined())
      total = mass.add(at::constant_pad_nd(total, {0, mass.size(1) - total.size(1)}));
    else
      total = mass;
  }

  void follow(const Policy& reader) override {
    const auto* other = dynamic_cast<const H2o*>(&reader);
    if (other == nullptr) core::internal_error("h2o: another policy read its context");
    observed_ = other->observed_;
  }

  void truncate(std::int64_t) override { layers_.clear(); }

  at::Tensor select(const SelectInput& input, VisibleSet& visible) override {
    const std::int64_t num_raw = input.layout->num_raw(), num_queries = input.q.size(0);
    if (num_raw == 0) return {};
    Layer& layer = of_layer(layers_, input.layer);
    if (!layer.ids.defined()) {
      layer.mass = of_layer(observed_, input.layer);
      if (!layer.mass.defined()) core::internal_error("h2o: nothing was observed of its context");
      layer.ids = at::arange(num_raw, layer.mass.options().dtype(at::kLong))
                      .expand({layer.mass.size(0), -1});
    }
    const std::int64_t budget = num_kept(spec(), num_raw);
    const std::int64_t num_heavy = budget / 2, num_recent = budget - num_heavy;
    at::Tensor suffix_lse;
    std::vector<at::Tensor> rows;
    for (std::int64_t t = 0; t < num_queries; ++t) {
      const std::int64_t first_recent = input.ranges->queries.begin + t + 1 - num_recent;
      evict(layer, num_heavy, first_recent, num_raw);
      rows.push_back(layer.ids);
      if (layer.ids.size(1) <= num_heavy) break;  // nothing will ever be dropped again
      if (!suffix_lse.defined()) suffix_lse = static_lse(input);
      accumulate(layer, input, t, suffix_lse);
    }
    rows.resize(num_queries, rows.back());
    const std::int64_t width = rows.front().size(1);
    for (at::Tensor& row : rows) row = at::constant_pad_nd(row, {0, width - row.size(1)}, -1);
    visible.tokens = at::stack(rows);
    return {};
  }

 private:
  struct Layer {
    at::Tensor ids;   // [H_kv, K] context tokens that are left, ascending
    at::Tensor mass;  // [H_kv, K] f32, attention they received
  };

  /// Drops all but `num_heavy` of the tokens before `first_recent`.
  static void evict(Layer& layer, std::int64_t num_heavy, std::int64_t first_recent,
                    std::int64_t num_raw) {
    const std::int64_t room = num_heavy + std::max<std::int64_t>(0, num_raw - first_recent);
    if (layer.ids.size(1) <= room) return;
    const at::Tensor recent = layer.ids.ge(first_recent);
    const at::Tensor order =
        std::get<1>(layer.mass.masked_fill(recent, kMinusInf).topk(num_heavy, -1));
    const at::Tensor stays = recent.scatter(-1, order, true);
    // As many stay in every head: they are sorted to the front, in order.
    const at::Tensor places = std::get<1>(stays.logical_not().sort(/*stable=*/true, -1, false));
    const at::Tensor kept = places.narrow(-1, 0, room);
    layer.ids = layer.ids.gather(-1, kept);
    layer.mass = layer.mass.gather(-1, kept);
  }

  /// Adds the attention of query `t`.
  static void accumulate(Layer& layer, const SelectInput& input, std::int64_t t,
                         const at::Tensor& suffix_lse) {
    const std::int64_t num_kv_heads = layer.ids.size(0), d = input.q.size(2);
    const at::Tensor q =
        input.q.select(0, t).to(at::kFloat).mul(input.scale).view({num_kv_heads, -1, d});
    at::Tensor scores;  // [H_kv, r, K]
    for (const SelectedKeys& part : split_by_span(input.arenas->raw, layer.ids.unsqueeze(0))) {
      const at::Tensor keys = gather_rows(part.span->k, part.idx).squeeze(0);
      at::Tensor some =
          at::bmm(q, keys.transpose(1, 2)).masked_fill_(part.invalid.squeeze(0).unsqueeze(1), 0);
      scores = scores.defined() ? scores.add_(some) : std::move(some);
    }
    const at::Tensor rest = suffix_lse.select(0, t).view({num_kv_heads, -1, 1});
    const at::Tensor lse = at::logaddexp(at::logsumexp(scores, {-1}, true), rest);
    layer.mass = layer.mass.add(scores.sub(lse).exp_().sum(1));
  }

  std::vector<at::Tensor> observed_;  // per layer: [H_kv, n] f32, of the context's own queries
  std::vector<Layer> layers_;
};

}  // namespace

std::unique_ptr<Policy> make_snapkv(const PolicySpec& spec) {
  return std::make_unique<SnapKv>(spec);
}

std::unique_ptr<Policy> make_h2o(const PolicySpec& spec) { return std::make_unique<H2o>(spec); }

std::unique_ptr<Policy> make_oracle(const PolicySpec& spec) {
  return std::make_unique<Oracle>(spec);
}

}  // namespace gsa::attention
