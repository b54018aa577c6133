#include "attention/step_search.h"

#include <algorithm>
#include <bit>
#include <cmath>

namespace gsa::attention {
namespace {

// Products of scores below which another thread costs more than it saves.
constexpr std::int64_t kMinTaskProducts = 1 << 15;

}  // namespace

StepSearch::StepSearch(const PolicySpec& spec, const ChunkKeys* chunk_keys,
                       const KeyAddresses& keys, const Layout& layout, std::int64_t num_heads,
                       double scale, kernels::Parallel& parallel)
    : spec_(spec),
      chunk_keys_(chunk_keys),
      keys_(keys),
      layout_(layout),
      scale_(scale),
      parallel_(parallel),
      group_(num_heads / keys.num_kv_heads()),
      per_head_(spec.mode == PolicySpec::Mode::group ? 1 : group_),
      searches_(keys.num_kv_heads() * per_head_),
      kept_(layout.num_levels() * keys.num_kv_heads()) {
  if (spec.mode == PolicySpec::Mode::group)
    sums_of_q_.resize(keys.num_kv_heads() * keys.head_dim());
  for (std::size_t i = 0; i < searches_.size(); ++i) {
    searches_[i].kv_head = static_cast<std::int64_t>(i) / per_head_;
    searches_[i].chosen.resize(layout.num_levels());
  }
}

std::span<StepSearch::Search> StepSearch::searches_of(std::int64_t kv_head) {
  return {searches_.data() + kv_head * per_head_, static_cast<std::size_t>(per_head_)};
}

/// Appends the keys that stand for nodes.
void StepSearch::add_node_runs(int level, Range nodes, std::int64_t kv_head,
                               std::vector<kernels::KeyRun>& runs) const {
  if (scores_means(level)) {
    append_runs(chunk_spans_, keys_.type(), keys_.head_dim(), nodes, kv_head, runs);
  } else {
    keys_.add_runs(level, nodes, kv_head, runs);
  }
}

void StepSearch::load_chunk_keys(std::int64_t layer) {
  chunk_spans_.clear();
  for (const KvSpan& span : chunk_keys_->of_layer(layer).spans)
    chunk_spans_.push_back(
        {span.k.const_data_ptr(), nullptr, span.k.stride(0), span.begin, span.len()});
}

void StepSearch::choose(std::int64_t layer, const float* q, const RowRanges& row) {
  if (chunk_keys_ != nullptr) load_chunk_keys(layer);
  prepare(layer, q);
  score_top();
  const auto num_searches = static_cast<std::int64_t>(searches_.size());
  const std::int64_t num_products = num_searches * expected_nodes() * keys_.head_dim();
  const int num_tasks = static_cast<int>(std::clamp<std::int64_t>(
      num_products / kMinTaskProducts, 1, std::min<int>(parallel_.num_threads(), num_searches)));
  // Rounded up: the first task, which the caller's thread has before others wake, is no smaller.
  const auto bound = [&](int task) { return (num_searches * task + num_tasks - 1) / num_tasks; };
  parallel_.run(num_tasks, [&](int task) {
    for (std::int64_t i = bound(task); i < bound(task + 1); ++i) descend(searches_[i]);
  });
  num_scored_only_ = 0;
  for (std::int64_t kv_head = 0; kv_head < keys_.num_kv_heads(); ++kv_head) {
    for (int level = layout_.num_levels() - 1; level >= 0; --level) {
      if (level == 0 && spec_.budget.kind == Budget::Kind::tokens) {
        keep_within_tokens(kv_head, row);
      } else {
        unite(kv_head, level);
      }
      const bool scores_gists = !scores_means(level);
      if (scores_gists && spec_.gists == PolicySpec::Gists::all) continue;
      num_scored_only_ += count_scored(kv_head, level);
      if (scores_gists && attends_gists()) {
        num_scored_only_ -= std::ssize(kept(level, kv_head)) - count_unscored(kv_head, level);
      }
    }
  }
}

/// Queries and the numbers that budgets depend on; memory for as much as the layout can need.
void StepSearch::prepare(std::int64_t layer, const float* q) {
  const std::int64_t d = keys_.head_dim();
  for (std::int64_t i = 0; i < std::ssize(sums_of_q_); ++i) {
    const float* rows = q + i / d * group_ * d + i % d;
    sums_of_q_[i] = 0;
    for (std::int64_t h = 0; h < group_; ++h) sums_of_q_[i] += rows[h * d];
  }
  const float* queries = sums_of_q_.empty() ? q : sums_of_q_.data();
  // The suffix is left out of n_keys: see SearchPolicy::select.
  context_ = {layout_.num_raw(), group_, per_head_, &layout_, spec_.layer_share(layer)};
  for (int level = 0; level < keys_.num_levels(); ++level) context_.num_keys += keys_.len(level);
  std::int64_t most = 0;
  top_ = 0;
  for (int level = 0; level < layout_.num_levels(); ++level) {
    if (layout_.num_nodes(level) > 0) top_ = level;
    most = std::max(most, layout_.num_nodes(level));
    for (std::int64_t kv_head = 0; kv_head < keys_.num_kv_heads(); ++kv_head)
      kept_[level * keys_.num_kv_heads() + kv_head].reserve(layout_.num_nodes(level));
  }
  for (std::size_t i = 0; i < searches_.size(); ++i) {
    Search& search = searches_[i];
    search.q = queries + static_cast<std::int64_t>(i) * d;
    search.sortable.resize(most);
    search.picked.resize(most);
    search.ranked.reserve(most * num_unfolded());
    search.candidates.reserve(most);
    search.scores.resize(most);
    for (int level = 0; level < layout_.num_levels(); ++level) {
      search.chosen[level].reserve(layout_.num_nodes(level));
      if (level < top_) search.runs.reserve(layout_.num_nodes(level) + max_node_runs(level));
    }
  }
  marks_.assign((most + 63) / 64, 0);
}

/// Scores of all nodes of the top level. The searches of a KV head share every load of a key.
void StepSearch::score_top() {
  const std::int64_t num_nodes = layout_.num_nodes(top_), num_heads = keys_.num_kv_heads();
  const std::int64_t num_products = num_heads * per_head_ * num_nodes * keys_.head_dim();
  const int num_tasks = static_cast<int>(
      std::clamp<std::int64_t>(num_products / kMinTaskProducts, 1, parallel_.num_threads()));
  top_scores_.resize(num_heads * per_head_ * num_nodes);
  if (std::ssize(task_runs_) < num_tasks) task_runs_.resize(num_tasks);
  for (auto& runs : task_runs_) runs.reserve(max_node_runs(top_));
  parallel_.run(num_tasks, [&](int task) {
    const std::int64_t total = num_heads * num_nodes;  // nodes of all heads in a row
    const std::int64_t last = total * (task + 1) / num_tasks;
    for (std::int64_t at = total * task / num_tasks; at < last;) {
      const std::int64_t kv_head = at / num_nodes, begin = at % num_nodes;
      const std::int64_t end = std::min(num_nodes, begin + last - at);
      auto& runs = task_runs_[task];
      runs.clear();
      add_node_runs(top_, {begin, end}, kv_head, runs);
      kernels::score_keys(keys_.type(), searches_of(kv_head)[0].q, per_head_, keys_.head_dim(),
                          {runs, end - begin},
                          top_scores_.data() + kv_head * per_head_ * num_nodes + begin, num_nodes);
      at += end - begin;
    }
  });
}

/// About how many nodes of all levels a search looks at.
std::int64_t StepSearch::expected_nodes() const {
  std::int64_t count = layout_.num_nodes(top_);
  for (int level = top_ - 1; level >= 0; --level) {
    const std::int64_t fan_out = layout_.num_nodes(level) / layout_.num_nodes(level + 1) + 1;
    const std::int64_t num_parents =
        std::min(layout_.num_nodes(level + 1), max_nodes(spec_, context_, level + 1));
    count += std::min(layout_.num_nodes(level), num_parents * fan_out);
  }
  return count;
}

/// Chooses at the top level and then, level by level, among the children of what was chosen.
void StepSearch::descend(Search& search) {
  for (int level = layout_.num_levels() - 1; level > top_; --level) search.chosen[level].clear();
  const std::int64_t num_nodes = layout_.num_nodes(top_);
  const std::int64_t row = &search - searches_.data();
  pick(search, top_, std::span(top_scores_).subspan(row * num_nodes, num_nodes), {});
  for (int level = top_ - 1; level >= 0; --level) {
    list_candidates(search, level);
    const std::int64_t count = std::ssize(search.candidates);
    kernels::score_keys(keys_.type(), search.q, 1, keys_.head_dim(), {search.runs, count},
                        search.scores.data(), count);
    pick(search, level, std::span(search.scores).first(count), search.candidates);
  }
}

/// Children of the chosen nodes above and the roots of the level, ascending.
void StepSearch::list_candidates(Search& search, int level) {
  const auto& parents = search.chosen[level + 1];
  const auto& roots = layout_.roots(level);
  search.candidates.clear();
  search.runs.clear();
  Range pending;  // nodes that follow each other make one run
  const auto add = [&](Range nodes) {
    for (std::int64_t node = nodes.begin; node < nodes.end; ++node)
      search.candidates.push_back(static_cast<std::int32_t>(node));
    if (nodes.begin == pending.end) {
      pending.end = nodes.end;
      return;
    }
    add_node_runs(level, pending, search.kv_head, search.runs);
    pending = nodes;
  };
  std::size_t root = 0;
  for (const std::int32_t parent : parents) {
    const Range children = layout_.children(level + 1, parent);
    for (; root < roots.size() && roots[root] < children.begin; ++root)
      add({roots[root], roots[root] + 1});
    add(children);
  }
  for (; root < roots.size(); ++root) add({roots[root], roots[root] + 1});
  add_node_runs(level, pending, search.kv_head, search.runs);
}

/// Takes the best candidates within the budget. `ids` empty: 0, 1, ...
void StepSearch::pick(Search& search, int level, std::span<const float> scores,
                      std::span<const std::int32_t> ids) {
  const auto count = static_cast<std::int64_t>(scores.size());
  const std::int64_t num_picked =
      kernels::top_k(scores.data(), count, max_nodes(spec_, context_, level),
                     search.sortable.data(), search.picked.data());
  const bool needs_mass = spec_.budget.kind == Budget::Kind::top_p;
  const bool needs_rank = spec_.budget.kind == Budget::Kind::tokens && level == 0;
  search.ranked.assign(search.picked.begin(), search.picked.begin() + num_picked);
  if (needs_mass || needs_rank) {
    std::sort(search.ranked.begin(), search.ranked.end(), [&](std::int32_t a, std::int32_t b) {
      return scores[a] > scores[b] || (scores[a] == scores[b] && a < b);
    });
  }
  if (needs_mass) keep_mass(search, scores);
  auto& chosen = search.chosen[level];
  if (!ids.empty()) {
    for (std::int32_t& place : search.ranked) place = ids[place];
  }
  chosen.assign(search.ranked.begin(), search.ranked.end());
  if (needs_mass || needs_rank) std::sort(chosen.begin(), chosen.end());
  if (needs_rank) add_neighbours(search.ranked);
}

/// Keeps the fewest best ones whose softmax holds the mass `top_p`.
void StepSearch::keep_mass(Search& search, std::span<const float> scores) {
  auto& ranked = search.ranked;
  if (ranked.empty()) return;
  const auto scale = static_cast<float>(scale_);
  const float peak = scores[ranked[0]] * scale;
  const auto weight = [&](std::int32_t place) { return std::exp(scores[place] * scale - peak); };
  double total = 0, before = 0;
  for (const std::int32_t place : ranked) total += weight(place);
  std::size_t num_kept = 0;
  while (num_kept < ranked.size() && before < spec_.budget.top_p * total)
    before += weight(ranked[num_kept++]);
  ranked.resize(num_kept);
}

/// What is selected with a chunk: i = 0 itself, 1 the next one, 2 the one before; -1 for none.
std::int32_t StepSearch::neighbour(std::int32_t chunk, std::int64_t i) const {
  if (i == 0) return chunk;
  if (i == 2) return chunk - 1;
  return chunk + 1 < layout_.num_nodes(0) ? chunk + 1 : -1;
}

/// Puts the neighbours of every chunk behind it: see with_neighbours (attention/selection.h).
void StepSearch::add_neighbours(std::vector<std::int32_t>& ranked) const {
  const std::int64_t width = num_unfolded(), count = std::ssize(ranked);
  ranked.resize(count * width);
  for (std::int64_t rank = count - 1; rank >= 0; --rank) {
    const std::int32_t chunk = ranked[rank];
    for (std::int64_t i = 0; i < width; ++i) ranked[rank * width + i] = neighbour(chunk, i);
  }
}

/// What the searches of a KV head chose, each once.
void StepSearch::unite(std::int64_t kv_head, int level) {
  for (const Search& search : searches_of(kv_head)) {
    for (const std::int32_t chosen : search.chosen[level]) {
      for (std::int64_t i = 0; i < (level == 0 ? num_unfolded() : 1); ++i) {
        const std::int32_t id = neighbour(chosen, i);
        if (id >= 0) marks_[id / 64] |= std::uint64_t{1} << id % 64;
      }
    }
  }
  collect_marked(layout_.num_nodes(level), kept_[level * keys_.num_kv_heads() + kv_head]);
}

/// Lists the marked nodes and takes the marks away.
void StepSearch::collect_marked(std::int64_t num_nodes, std::vector<std::int32_t>& ids) {
  ids.clear();
  for (std::int64_t word = 0; word * 64 < num_nodes; ++word) {
    for (std::uint64_t bits = marks_[word]; bits != 0; bits &= bits - 1)
      ids.push_back(static_cast<std::int32_t>(word * 64 + std::countr_zero(bits)));
    marks_[word] = 0;
  }
}

/// Chunks in the order of their ranks while their raw tokens that are not visible anyway stay
/// within the budget: see within_tokens (attention/budget.h).
void StepSearch::keep_within_tokens(std::int64_t kv_head, const RowRanges& row) {
  const auto searches = searches_of(kv_head);
  std::int64_t spent = 0, num_ranks = 0;
  for (const Search& search : searches)
    num_ranks = std::max(num_ranks, static_cast<std::int64_t>(search.ranked.size()));
  const auto overlap = [](Range a, Range b) {
    return Range{std::max(a.begin, b.begin), std::min(a.end, b.end)}.size();
  };
  const std::int64_t most = budget_tokens(spec_, context_);
  for (std::int64_t rank = 0; rank < num_ranks && spent <= most; ++rank) {
    for (const Search& search : searches) {
      if (rank >= std::ssize(search.ranked) || search.ranked[rank] < 0) continue;
      const std::int32_t chunk = search.ranked[rank];
      std::uint64_t& word = marks_[chunk / 64];
      const std::uint64_t mark = std::uint64_t{1} << chunk % 64;
      if (word & mark) continue;
      const Range tokens = layout_.children(0, chunk);
      spent += tokens.size() - overlap(tokens, row.sinks) - overlap(tokens, row.local);
      if (spent > most) break;
      word |= mark;
    }
  }
  collect_marked(layout_.num_nodes(0), kept_[kv_head]);
}

/// Different nodes of a level that the searches of a KV head scored.
std::int64_t StepSearch::count_scored(std::int64_t kv_head, int level) const {
  if (level > top_) return 0;
  if (level == top_) return layout_.num_nodes(level);
  std::int64_t count = std::ssize(layout_.roots(level));
  for (const std::int32_t parent : kept(level + 1, kv_head))
    count += layout_.children(level + 1, parent).size();
  return count;
}

/// Nodes that were kept beside a neighbour and are no candidates of any search.
std::int64_t StepSearch::count_unscored(std::int64_t kv_head, int level) const {
  if (level != 0 || level == top_ || num_unfolded() == 1) return 0;
  const auto& parents = kept(1, kv_head);
  return std::ranges::count_if(kept(0, kv_head), [&](std::int32_t chunk) {
    const std::int64_t parent = layout_.parent(0, chunk);
    return parent >= 0 && !std::ranges::binary_search(parents, parent);
  });
}

}  // namespace gsa::attention
