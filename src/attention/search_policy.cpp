#include "attention/search_policy.h"

#include <ATen/Context.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/bmm.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/full.h>
#include <ATen/ops/logsumexp.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>

#include <limits>
#include <optional>
#include <utility>

#include "attention/attend_parts.h"
#include "attention/budget.h"
#include "attention/selection.h"
#include "core/rng.h"

namespace gsa::attention {
namespace {

/// Children of the chosen nodes of `level + 1` and the roots of `level`: [T, S, C], -1 where there
/// is none.
at::Tensor candidates(const Layout& layout, int level, const at::Tensor& parents) {
  const at::Device device = parents.device();
  const at::Tensor safe = parents.clamp_min(0);
  const at::Tensor begin = to_tensor(layout.child_begins(level + 1), device).index({safe});
  const at::Tensor end = to_tensor(layout.child_ends(level + 1), device).index({safe});
  const std::int64_t width = layout.options().chunk_sizes.sizes[level + 1];
  const at::Tensor children = begin.unsqueeze(-1).add(at::arange(width, parents.options()));
  const at::Tensor missing =
      children.ge(end.unsqueeze(-1)).logical_or_(parents.lt(0).unsqueeze(-1));
  const at::Tensor found = children.masked_fill(missing, -1).flatten(2);
  const at::Tensor roots = to_tensor(layout.roots(level), device);
  return at::cat({found, roots.expand({parents.size(0), parents.size(1), -1})}, -1);
}

/// Different ids of every row [T, H_kv, K], without -1: int64 [T, H_kv].
at::Tensor num_ids(const at::Tensor& ids) { return sorted_unique(ids).ge(0).sum(-1); }

}  // namespace

StaticRule SearchPolicy::context_rule(int level) const {
  const bool reads_full = spec().read == PolicySpec::Read::full && level == kRawLevel;
  StaticRule rule;
  rule.kind = reads_full ? StaticRule::Kind::full : StaticRule::Kind::gist;
  rule.gists_visible = spec().gists != PolicySpec::Gists::hidden;
  return rule;
}

StaticRule SearchPolicy::suffix_rule(std::int64_t layer) const {
  if (layer == 0) return context_rule(kRawLevel);
  StaticRule rule;
  rule.kind = StaticRule::Kind::local;
  rule.all_gists = uses_gists() && spec().gists == PolicySpec::Gists::all;
  return rule;
}

at::Tensor SearchPolicy::select(const SelectInput& input, VisibleSet& visible) {
  const Layout& layout = *input.layout;
  const int num_levels = layout.num_levels();
  const std::int64_t num_queries = input.q.size(0), num_heads = input.q.size(1);
  const std::int64_t num_kv_heads = input.arenas->num_kv_heads();
  const std::int64_t group = num_heads / num_kv_heads;
  if (layout.num_nodes(0) == 0) return {};

  // The suffix is left out of n_keys: a prompt run at once and token by token then selects alike.
  BudgetContext context{layout.num_raw(), group, group, &layout, spec().layer_share(input.layer)};
  for (const KvArena& arena : input.arenas->gists) context.num_keys += arena.len();
  at::Tensor q = input.q.to(at::kFloat).view({num_queries, num_kv_heads, group, input.q.size(2)});
  if (spec().mode == PolicySpec::Mode::group) {
    q = q.sum(2, true);  // the sum of the heads' scores is the score of their sum
    context.num_searches = 1;
  }
  const std::int64_t num_searches = num_kv_heads * context.num_searches;
  const bool attends_gists = uses_gists() && spec().gists == PolicySpec::Gists::selected;
  if (attends_gists) visible.gists.resize(num_levels);

  at::Tensor chosen;  // [T, S, K] at the level above
  at::Tensor scored_only =
      at::zeros({num_queries, num_kv_heads}, input.q.options().dtype(at::kLong));
  for (int level = num_levels - 1; level >= 0; --level) {
    at::Tensor ids;
    if (chosen.defined()) ids = candidates(layout, level, chosen);
    const std::int64_t num_candidates = ids.defined() ? ids.size(2) : layout.num_nodes(level);
    if (num_candidates == 0) {  // the tree has not grown to this level
      chosen = at::full({num_queries, num_searches, 0}, -1, scored_only.options());
      continue;
    }
    at::Tensor scores = score(input, level, q, ids);
    if (ids.defined()) {
      scores = scores.masked_fill(ids.lt(0), -std::numeric_limits<double>::infinity());
    }
    chosen = top_candidates(spec(), context, level, scores, ids, input.scale);
    at::Tensor by_head = chosen.view({num_queries, num_kv_heads, context.num_searches, -1});
    if (level == 0) by_head = with_neighbours(by_head, spec().unfold, layout.num_nodes(0));
    const bool is_token_budget = level == 0 && spec().budget.kind == Budget::Kind::tokens;
    const at::Tensor kept =
        sorted_unique(is_token_budget ? within_tokens(by_head, budget_tokens(spec(), context),
                                                      layout, *input.ranges)
                                      : by_head.flatten(2));
    if (level == 0) visible.unfolded = kept;
    if (attends_gists) visible.gists[level] = kept;
    const bool scores_gists = uses_gists() && num_vectors(level) > 0 && !scores_means(level);
    if (num_vectors(level) == 0 || (scores_gists && spec().gists == PolicySpec::Gists::all))
      continue;
    const bool is_attended = scores_gists && attends_gists;
    if (ids.defined()) {
      const at::Tensor scored = ids.reshape({num_queries, num_kv_heads, -1});
      // A neighbour need not have been scored.
      scored_only += num_ids(is_attended ? at::cat({scored, kept}, -1) : scored);
    } else {
      scored_only += num_candidates * num_vectors(level);  // every search scored them all
    }
    if (is_attended) scored_only -= kept.ge(0).sum(-1);
  }
  return scored_only;
}

namespace {

/// q [T, H_kv, s, d] times every key [H_kv, M, d]: [T, H_kv * s, M].
at::Tensor score_all(const at::Tensor& q, const at::Tensor& keys) {
  const std::int64_t num_queries = q.size(0), num_kv_heads = q.size(1), per_head = q.size(2);
  const at::Tensor rows = q.permute({1, 0, 2, 3}).reshape({num_kv_heads, -1, q.size(3)});
  return at::bmm(rows, keys.transpose(1, 2))
      .view({num_kv_heads, num_queries, per_head, -1})
      .permute({1, 0, 2, 3})
      .reshape({num_queries, num_kv_heads * per_head, -1});
}

/// Of gsa and meanpool: scores nodes by their gists, chunks perhaps by their raw keys.
class ChunkSearch final : public SearchPolicy {
 public:
  explicit ChunkSearch(PolicySpec spec) : SearchPolicy(std::move(spec)) {
    const bool adds_gists = this->spec().route == PolicySpec::Route::both;
    if (adds_gists || this->spec().route == PolicySpec::Route::mean) keys_.emplace(adds_gists);
  }

  const ChunkKeys* chunk_keys() const override { return keys_ ? &*keys_ : nullptr; }
  void update_chunk_keys(std::int64_t layer, const KvArenas& arenas,
                         const Layout& layout) override {
    if (keys_) keys_->update(layer, arenas, layout);
  }
  /// Another kind of policy, or one with other chunks, may have read the context.
  void follow(const Policy& reader) override {
    const ChunkKeys* computed = reader.chunk_keys();
    if (keys_ && computed != nullptr && reader.spec().route == spec().route &&
        reader.spec().layout == spec().layout)
      keys_->follow(*computed);
  }
  void truncate(std::int64_t) override {
    if (keys_) keys_->clear();
  }

 private:
  bool scores_means(int level) const override {
    return level == 0 && spec().route != PolicySpec::Route::gist;
  }
  std::int64_t num_vectors(int) const override {
    return spec().route == PolicySpec::Route::oracle ? 0 : 1;
  }

  at::Tensor score(const SelectInput& input, int level, const at::Tensor& q,
                   const at::Tensor& ids) override {
    if (spec().route == PolicySpec::Route::oracle) return true_scores(input, q);
    if (scores_means(level)) update_chunk_keys(input.layer, *input.arenas, *input.layout);
    const KvArena& arena =
        scores_means(level) ? keys_->of_layer(input.layer) : input.arenas->gists[level];
    if (!ids.defined()) {
      std::vector<at::Tensor> parts;
      for (const KvSpan& span : arena.spans) parts.push_back(score_all(q, span.k.to(at::kFloat)));
      return parts.size() == 1 ? parts[0] : at::cat(parts, -1);
    }
    const std::int64_t num_queries = q.size(0), num_kv_heads = q.size(1), per_head = q.size(2);
    const std::int64_t width = ids.size(2);
    // Each search has its own candidates: a KV head's candidates are those of its s searches in a
    // row.
    const at::Tensor by_head = ids.reshape({num_queries, num_kv_heads, per_head * width});
    const std::int64_t step = selection_block_len(by_head, q.size(3));
    std::vector<at::Tensor> blocks;
    for (std::int64_t begin = 0; begin < num_queries; begin += step) {
      const std::int64_t count = std::min(step, num_queries - begin);
      blocks.push_back(
          score_listed(arena, q.narrow(0, begin, count), by_head.narrow(0, begin, count)));
    }
    return at::cat(blocks).view({num_queries, num_kv_heads * per_head, width});
  }

  /// q [T, H_kv, s, d] times the keys named by ids [T, H_kv, s * C]: [T, H_kv * s, C].
  static at::Tensor score_listed(const KvArena& arena, const at::Tensor& q, const at::Tensor& ids) {
    const std::int64_t per_head = q.size(2), head_dim = q.size(3);
    const std::int64_t num_rows = q.size(0) * q.size(1) * per_head;
    at::Tensor scores = at::zeros({num_rows, 1, ids.size(2) / per_head}, q.options());
    for (const SelectedKeys& part : split_by_span(arena, ids)) {
      const at::Tensor keys = gather_rows(part.span->k, part.idx).view({num_rows, -1, head_dim});
      const at::Tensor products = at::bmm(q.reshape({num_rows, 1, head_dim}), keys.transpose(1, 2));
      scores += products.masked_fill(part.invalid.view(scores.sizes()), 0);
    }
    return scores;
  }

  /// Logarithm of the mass that full attention would give every chunk, over the scale: as `score`.
  static at::Tensor true_scores(const SelectInput& input, const at::Tensor& q) {
    const Layout& layout = *input.layout;
    const at::Tensor begins = to_tensor(layout.child_begins(0), q.device()).unsqueeze(1);
    const at::Tensor ends = to_tensor(layout.child_ends(0), q.device()).unsqueeze(1);
    const at::Tensor tokens =
        begins.add(at::arange(layout.max_chunk_len(), begins.options()));  // [M, longest chunk]
    const at::Tensor missing = tokens.ge(ends);
    const at::Tensor places = tokens.clamp_max(layout.num_raw() - 1).flatten();
    std::vector<at::Tensor> parts;
    for (const KvSpan& span : spans_in(input.arenas->raw, {0, layout.num_raw()}))
      parts.push_back(score_all(q, span.k.to(at::kFloat)));
    const at::Tensor scores = at::cat(parts, -1).mul_(input.scale).index_select(-1, places);
    return scores.view({scores.size(0), scores.size(1), tokens.size(0), tokens.size(1)})
        .masked_fill_(missing, -std::numeric_limits<double>::infinity())
        .logsumexp(-1)
        .div_(input.scale);
  }

  std::optional<ChunkKeys> keys_;
};

class QuestSearch final : public SearchPolicy {
 public:
  using SearchPolicy::SearchPolicy;

  StaticRule suffix_rule(std::int64_t layer) const override {
    return selects(layer) ? SearchPolicy::suffix_rule(std::max<std::int64_t>(layer, 1))
                          : context_rule(kRawLevel);
  }
  bool selects(std::int64_t layer) const override {
    return !in_prompt_ && layer >= spec().dense_layers;
  }

  void begin_prompt() override { in_prompt_ = true; }
  void end_prompt() override { in_prompt_ = false; }
  void truncate(std::int64_t) override { bounds_.clear(); }

 private:
  struct Bounds {
    at::Tensor low, high;  // [H_kv, M, d] f32
  };

  at::Tensor score(const SelectInput& input, int, const at::Tensor& q, const at::Tensor&) override {
    if (std::ssize(bounds_) <= input.layer) bounds_.resize(input.layer + 1);
    Bounds& bounds = bounds_[input.layer];
    const std::int64_t known = bounds.low.defined() ? bounds.low.size(1) : 0;
    const std::int64_t total = input.layout->num_nodes(0);
    if (known < total) {
      const Bounds added = bounds_of(input.arenas->raw, *input.layout, known, total);
      bounds = known == 0 ? added
                          : Bounds{at::cat({bounds.low, added.low}, 1),
                                   at::cat({bounds.high, added.high}, 1)};
    }
    return score_all(q.clamp_min(0), bounds.high).add_(score_all(q.clamp_max(0), bounds.low));
  }
  std::int64_t num_vectors(int) const override { return 2; }
  bool scores_means(int) const override { return true; }

  /// Of pages [first, last).
  static Bounds bounds_of(const KvArena& raw, const Layout& layout, std::int64_t first,
                          std::int64_t last) {
    constexpr std::int64_t kBlockTokens = 4096;  // keys that are copied at a time
    const std::int64_t num_blocked =
        std::max<std::int64_t>(1, kBlockTokens / layout.max_chunk_len());
    std::vector<at::Tensor> low, high;
    for (std::int64_t begin = first; begin < last; begin += num_blocked) {
      const std::int64_t end = std::min(begin + num_blocked, last);
      const at::Tensor keys = padded_keys(raw, layout, begin, end);
      low.push_back(keys.amin(2));
      high.push_back(keys.amax(2));
    }
    return {at::cat(low, 1), at::cat(high, 1)};
  }

  /// Keys of pages [first, last), short pages filled up with their last key: [H_kv, pages, len, d].
  static at::Tensor padded_keys(const KvArena& raw, const Layout& layout, std::int64_t first,
                                std::int64_t last) {
    const std::int64_t begin = layout.children(0, first).begin, len = layout.max_chunk_len();
    std::vector<std::int64_t> places;
    for (std::int64_t page = first; page < last; ++page) {
      const Range tokens = layout.children(0, page);
      for (std::int64_t i = 0; i < len; ++i)
        places.push_back(std::min(tokens.begin + i, tokens.end - 1) - begin);
    }
    std::vector<at::Tensor> parts;
    for (const KvSpan& span : spans_in(raw, {begin, layout.children(0, last - 1).end}))
      parts.push_back(span.k);
    const at::Tensor keys = parts.size() == 1 ? parts[0] : at::cat(parts, 1);
    return keys.index_select(1, to_tensor(places, keys.device()))
        .to(at::kFloat)
        .view({keys.size(0), last - first, len, keys.size(2)});
  }

  bool in_prompt_ = false;
  std::vector<Bounds> bounds_;  // per layer
};

class RandomSearch final : public SearchPolicy {
 public:
  explicit RandomSearch(PolicySpec spec) : SearchPolicy(spec), rng_(spec.seed) {}

 private:
  at::Tensor score(const SelectInput& input, int, const at::Tensor& q, const at::Tensor&) override {
    const at::Tensor noise =
        at::zeros({q.size(0), q.size(1) * q.size(2), input.layout->num_nodes(0)});
    float* values = noise.data_ptr<float>();
    for (std::int64_t i = 0; i < noise.numel(); ++i) values[i] = rng_.uniform();
    return noise.to(q.device());
  }
  std::int64_t num_vectors(int) const override { return 0; }
  bool scores_means(int) const override { return true; }

  core::Rng rng_;
};

}  // namespace

std::unique_ptr<Policy> make_chunk_search(const PolicySpec& spec) {
  return std::make_unique<ChunkSearch>(spec);
}

std::unique_ptr<Policy> make_quest_search(const PolicySpec& spec) {
  return std::make_unique<QuestSearch>(spec);
}

std::unique_ptr<Policy> make_random_search(const PolicySpec& spec) {
  return std::make_unique<RandomSearch>(spec);
}

}  // namespace gsa::attention
