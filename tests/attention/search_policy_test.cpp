#include "attention/search_policy.h"

#include <ATen/ops/cat.h>
#include <ATen/ops/randn.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <set>

#include "ATen/CPUGeneratorImpl.h"
#include "attention/random_arena.h"
#include "attention/random_layout.h"

// select() against method §3 in plain loops: every node of every level is scored, and the choice
// above masks the level below.
namespace gsa::attention {
namespace {

using Ids = std::set<std::int64_t>;

// Two scores nearer than this may swap their ranks in another order of summation.
constexpr double kTieGap = 2e-5;

/// A context of random chunks with keys, and queries behind it.
struct Problem {
  Layout layout{LayoutOptions{}};
  KvArenas arenas;
  at::Tensor q;  // [T, H, d]
  QuerySlice queries;
  double scale = 1;

  std::int64_t num_kv_heads() const { return arenas.num_kv_heads(); }
  std::int64_t group() const { return q.size(1) / num_kv_heads(); }
};

Problem random_problem(core::Rng& rng, const PolicySpec& spec, bool has_gists) {
  Problem problem;
  problem.layout = build(spec.layout, random_pieces(rng, 3, 90));
  if (rng.below(4) == 0) problem.layout.append(random_pieces(rng, 1, 30)[0]);  // an open piece
  const std::int64_t num_kv_heads = 1 + rng.below(3), group = 1 + rng.below(3),
                     d = 4 * (1 + rng.below(3)), num_suffix = 1 + rng.below(6);
  const std::int64_t num_raw = problem.layout.num_raw();
  problem.arenas.raw = random_arena(rng, num_kv_heads, num_raw + num_suffix, d);
  for (int level = 0; has_gists && level < problem.layout.num_levels(); ++level) {
    const std::int64_t num_nodes = problem.layout.num_nodes(level);
    problem.arenas.gists.push_back(random_arena(rng, num_kv_heads, num_nodes, d));
  }
  const std::int64_t skipped = rng.below(static_cast<std::uint32_t>(num_suffix));
  problem.queries = {kRawLevel, num_raw + skipped, num_suffix - skipped};
  problem.q = at::randn({problem.queries.count, num_kv_heads * group, d});
  problem.scale = 1 / std::sqrt(static_cast<double>(d));
  return problem;
}

struct Selected {
  VisibleSet visible;
  at::Tensor scored_only;
};

Selected select(Policy& policy, const Problem& problem, std::int64_t layer = 1) {
  Selected result;
  result.visible.layout = &problem.layout;
  result.visible.ranges = std::make_shared<RangeTable>(
      visible_ranges(problem.layout, policy.suffix_rule(layer), problem.queries));
  result.scored_only = policy.select(
      {layer, problem.q, &problem.arenas, &problem.layout, result.visible.ranges, problem.scale},
      result.visible);
  return result;
}

/// Contiguous copy of an arena's keys: [H_kv, n, d].
at::Tensor all_keys(const KvArena& arena) {
  std::vector<at::Tensor> parts;
  for (const KvSpan& span : arena.spans) parts.push_back(span.k);
  return at::cat(parts, 1).contiguous();
}

double dot(const float* a, const float* b, std::int64_t size) {
  double sum = 0;
  for (std::int64_t i = 0; i < size; ++i) sum += static_cast<double>(a[i]) * b[i];
  return sum;
}

/// Score of a node for one query head.
using Score =
    std::function<double(int level, std::int64_t node, std::int64_t query, std::int64_t head)>;

Score gist_score(const Problem& problem) {
  std::vector<at::Tensor> keys;  // per level
  for (const KvArena& arena : problem.arenas.gists) {
    keys.push_back(arena.len() > 0 ? all_keys(arena) : at::Tensor());
  }
  return [&problem, keys](int level, std::int64_t node, std::int64_t query, std::int64_t head) {
    const std::int64_t d = problem.q.size(2), kv_head = head / problem.group();
    return dot(problem.q.data_ptr<float>() + (query * problem.q.size(1) + head) * d,
               keys[level].data_ptr<float>() + (kv_head * keys[level].size(1) + node) * d, d);
  };
}

Score mean_score(const Problem& problem) {
  const at::Tensor keys = all_keys(problem.arenas.raw);
  return [&problem, keys](int, std::int64_t chunk, std::int64_t query, std::int64_t head) {
    const std::int64_t d = problem.q.size(2), kv_head = head / problem.group();
    const Range raw = problem.layout.children(0, chunk);
    double sum = 0;
    for (std::int64_t token = raw.begin; token < raw.end; ++token) {
      sum += dot(problem.q.data_ptr<float>() + (query * problem.q.size(1) + head) * d,
                 keys.data_ptr<float>() + (kv_head * keys.size(1) + token) * d, d);
    }
    return sum / static_cast<double>(raw.size());
  };
}

/// Logarithm of the attention that the tokens of a chunk would get, over the scale.
Score true_score(const Problem& problem) {
  const at::Tensor keys = all_keys(problem.arenas.raw);
  return [&problem, keys](int, std::int64_t chunk, std::int64_t query, std::int64_t head) {
    const std::int64_t d = problem.q.size(2), kv_head = head / problem.group();
    const Range raw = problem.layout.children(0, chunk);
    double sum = 0;
    for (std::int64_t token = raw.begin; token < raw.end; ++token) {
      sum += std::exp(problem.scale *
                      dot(problem.q.data_ptr<float>() + (query * problem.q.size(1) + head) * d,
                          keys.data_ptr<float>() + (kv_head * keys.size(1) + token) * d, d));
    }
    return std::log(sum) / problem.scale;
  };
}

/// What a policy's `route` scores a node by.
Score route_score(const PolicySpec& spec, const Problem& problem) {
  if (spec.route == PolicySpec::Route::oracle) return true_score(problem);
  const Score mean = mean_score(problem);
  if (spec.name == "meanpool") return mean;
  const Score gist = gist_score(problem);
  return
      [=, route = spec.route](int level, std::int64_t node, std::int64_t query, std::int64_t head) {
        if (level > 0 || route == PolicySpec::Route::gist) return gist(level, node, query, head);
        const double score = mean(level, node, query, head);
        return route == PolicySpec::Route::both ? score + gist(level, node, query, head) : score;
      };
}

/// Quest's upper bound of the scores of a page's tokens.
Score bound_score(const Problem& problem) {
  const at::Tensor keys = all_keys(problem.arenas.raw);
  return [&problem, keys](int, std::int64_t page, std::int64_t query, std::int64_t head) {
    const std::int64_t d = problem.q.size(2), kv_head = head / problem.group();
    const Range raw = problem.layout.children(0, page);
    const float* q = problem.q.data_ptr<float>() + (query * problem.q.size(1) + head) * d;
    double bound = 0;
    for (std::int64_t i = 0; i < d; ++i) {
      double low = std::numeric_limits<double>::infinity(), high = -low;
      for (std::int64_t token = raw.begin; token < raw.end; ++token) {
        const double k = keys.data_ptr<float>()[(kv_head * keys.size(1) + token) * d + i];
        low = std::min(low, k);
        high = std::max(high, k);
      }
      bound += std::max(q[i] * low, q[i] * high);
    }
    return bound;
  };
}

/// What one query may unfold with one KV head.
struct Choice {
  std::vector<Ids> kept;    // per level
  std::vector<Ids> scored;  // per level: nodes whose keys some search read
  double gap = std::numeric_limits<double>::infinity();  // of the closest decision
};

class BruteForce {
 public:
  BruteForce(const PolicySpec& spec, const Problem& problem, const RangeTable& ranges, Score score)
      : spec_(spec), problem_(problem), ranges_(ranges), score_(std::move(score)) {}

  Choice choose(std::int64_t query, std::int64_t kv_head) {
    const Layout& layout = problem_.layout;
    Choice choice;
    choice.kept.resize(layout.num_levels());
    choice.scored.resize(layout.num_levels());
    std::vector<std::vector<std::int64_t>> by_search;  // chunks of each search, best first
    for (std::int64_t search = 0; search < num_searches(); ++search) {
      Ids above;
      for (int level = layout.num_levels() - 1; level >= 0; --level) {
        std::vector<std::int64_t> best = best_nodes(query, kv_head, search, level, above, choice);
        above = Ids(best.begin(), best.end());
        choice.kept[level].insert(best.begin(), best.end());
        if (level == 0) by_search.push_back(std::move(best));
      }
    }
    for (auto& best : by_search) best = with_neighbours(best);
    if (spec_.budget.kind == Budget::Kind::tokens) {
      choice.kept[0] = within_tokens(query, by_search);
    } else {
      for (const auto& best : by_search) choice.kept[0].insert(best.begin(), best.end());
    }
    choice.kept[0].erase(-1);
    return choice;
  }

 private:
  /// Budgets times the share of layer 1.
  std::int64_t num_tokens() const {
    return std::llround(static_cast<double>(spec_.budget.tokens) * spec_.layer_share(1));
  }
  bool is_group() const { return spec_.mode == PolicySpec::Mode::group; }
  std::int64_t num_searches() const { return is_group() ? 1 : problem_.group(); }

  std::vector<std::int64_t> with_neighbours(const std::vector<std::int64_t>& chunks) const {
    std::vector<std::int64_t> all;
    for (const std::int64_t chunk : chunks) {
      all.push_back(chunk);
      if (spec_.unfold == PolicySpec::Unfold::chunk) continue;
      all.push_back(chunk + 1 < problem_.layout.num_nodes(0) ? chunk + 1 : -1);
      if (spec_.unfold == PolicySpec::Unfold::both) all.push_back(chunk - 1);
    }
    return all;
  }

  double score(int level, std::int64_t node, std::int64_t query, std::int64_t kv_head,
               std::int64_t search) const {
    const std::int64_t first = kv_head * problem_.group();
    if (!is_group()) return score_(level, node, query, first + search);
    double sum = 0;
    for (std::int64_t i = 0; i < problem_.group(); ++i)
      sum += score_(level, node, query, first + i);
    return sum;
  }

  std::vector<std::int64_t> best_nodes(std::int64_t query, std::int64_t kv_head,
                                       std::int64_t search, int level, const Ids& above,
                                       Choice& choice) const {
    std::vector<std::pair<double, std::int64_t>> ranked;
    for (std::int64_t node = 0; node < problem_.layout.num_nodes(level); ++node) {
      const std::int64_t parent = problem_.layout.parent(level, node);
      if (parent >= 0 && above.count(parent) == 0) continue;
      choice.scored[level].insert(node);
      ranked.emplace_back(score(level, node, query, kv_head, search), node);
    }
    std::sort(ranked.rbegin(), ranked.rend());
    const auto size = std::min<std::size_t>(ranked.size(), num_kept(level, ranked, choice.gap));
    for (std::size_t i = 0; i < size && i + 1 < ranked.size(); ++i) {
      choice.gap = std::min(choice.gap, ranked[i].first - ranked[i + 1].first);
    }
    std::vector<std::int64_t> best;
    for (std::size_t i = 0; i < size; ++i) best.push_back(ranked[i].second);
    return best;
  }

  std::size_t num_kept(int level, const std::vector<std::pair<double, std::int64_t>>& ranked,
                       double& gap) const {
    if (spec_.budget.kind == Budget::Kind::top_p) return num_within_mass(ranked, gap);
    const auto& sizes = spec_.layout.chunk_sizes.sizes;
    if (spec_.budget.kind == Budget::Kind::ratio) {
      std::int64_t num_keys = problem_.layout.num_raw(), ratio = spec_.budget.ratio;
      for (const KvArena& arena : problem_.arenas.gists) num_keys += arena.len();
      if (ratio == 0) {
        ratio = 1;
        for (const std::int32_t size : sizes) ratio *= size;
      }
      const std::int64_t k = num_keys / ratio / problem_.group() / sizes[0] + 1;
      const std::int64_t most = problem_.layout.num_nodes(level) / 4;
      const auto shared = std::llround(static_cast<double>(k) * spec_.layer_share(1));
      return static_cast<std::size_t>(std::min<std::int64_t>(std::max<std::int64_t>(1, shared),
                                                             std::max<std::int64_t>(1, most)));
    }
    // Enough full chunks to spend the budget alone beside the local ones; above, a fair share and
    // room for the parents of the level below.
    const auto up = [](std::int64_t a, std::int64_t b) { return (a + b - 1) / b; };
    const std::int64_t alone = up(num_tokens(), sizes[0]) + spec_.layout.num_local_chunks;
    std::int64_t wanted = alone;
    for (int above = 1; above <= level; ++above) {
      wanted = std::max(up(alone, num_searches()) + 1, up(wanted, sizes[above]));
    }
    return static_cast<std::size_t>(wanted);
  }

  std::size_t num_within_mass(const std::vector<std::pair<double, std::int64_t>>& ranked,
                              double& gap) const {
    double total = 0, mass = 0;
    const auto weight = [&](double score) {
      return std::exp((score - ranked[0].first) * problem_.scale);
    };
    for (const auto& [score, node] : ranked) total += weight(score);
    for (std::size_t i = 0; i < ranked.size(); ++i) {
      mass += weight(ranked[i].first) / total;
      gap = std::min(gap, std::abs(mass - spec_.budget.top_p));
      if (mass >= spec_.budget.top_p) return i + 1;
    }
    return ranked.size();
  }

  /// Chunks in order of rank over the searches, each once, while their raw tokens that are not
  /// visible anyway stay within the budget.
  Ids within_tokens(std::int64_t query,
                    const std::vector<std::vector<std::int64_t>>& by_search) const {
    Ids seen, kept;
    std::int64_t spent = 0;
    for (std::size_t rank = 0;; ++rank) {
      bool is_end = true;
      for (const auto& chunks : by_search) {
        if (rank >= chunks.size()) continue;
        is_end = false;
        if (chunks[rank] < 0 || !seen.insert(chunks[rank]).second) continue;
        spent += num_extra_tokens(query, chunks[rank]);
        if (spent <= num_tokens()) kept.insert(chunks[rank]);
      }
      if (is_end) return kept;
    }
  }

  std::int64_t num_extra_tokens(std::int64_t query, std::int64_t chunk) const {
    const Range raw = problem_.layout.children(0, chunk);
    std::int64_t count = 0;
    for (std::int64_t token = raw.begin; token < raw.end; ++token) {
      const bool is_visible = std::any_of(
          ranges_.columns.begin(), ranges_.columns.end(), [&](const RangeColumn& column) {
            return column.level == kRawLevel && token >= column.begin[query] &&
                   token < column.end[query];
          });
      count += is_visible ? 0 : 1;
    }
    return count;
  }

  const PolicySpec& spec_;
  const Problem& problem_;
  const RangeTable& ranges_;
  Score score_;
};

/// Ids of one query and KV head; checks that they ascend, once each, with -1 behind them only.
Ids row_of(const at::Tensor& ids, std::int64_t query, std::int64_t kv_head) {
  Ids result;
  if (!ids.defined()) return result;
  const at::Tensor row = ids[query][kv_head].contiguous();
  const std::int64_t* values = row.data_ptr<std::int64_t>();
  std::int64_t previous = -1;
  bool has_ended = false;
  for (std::int64_t i = 0; i < row.size(0); ++i) {
    if (values[i] < 0) {
      EXPECT_EQ(values[i], -1);
      has_ended = true;
      continue;
    }
    EXPECT_FALSE(has_ended) << "an id behind the padding";
    EXPECT_GT(values[i], previous);
    previous = values[i];
    result.insert(values[i]);
  }
  return result;
}

struct Tally {
  std::int64_t num_rows = 0, num_ties = 0;
};

/// Compares every row; `attends_gists` and `num_vectors` (read to score a node) as the
/// policy's definition has them.
void expect_equal(const Selected& actual, const Problem& problem, BruteForce& expected,
                  bool attends_gists, std::int64_t num_vectors, Tally& tally,
                  PolicySpec::Route route = PolicySpec::Route::gist) {
  const int num_levels = problem.layout.num_levels();
  for (std::int64_t query = 0; query < problem.queries.count; ++query) {
    for (std::int64_t kv_head = 0; kv_head < problem.num_kv_heads(); ++kv_head) {
      const Choice choice = expected.choose(query, kv_head);
      ++tally.num_rows;
      if (choice.gap < kTieGap) {
        ++tally.num_ties;
        continue;
      }
      ASSERT_EQ(row_of(actual.visible.unfolded, query, kv_head), choice.kept[0]);
      std::int64_t scored_only = 0;
      for (int level = 0; level < num_levels; ++level) {
        const Ids& kept = choice.kept[level];
        Ids scored = choice.scored[level];
        if (attends_gists) {
          ASSERT_EQ(row_of(actual.visible.gists.at(level), query, kv_head), kept);
          const bool is_attended = level > 0 || route == PolicySpec::Route::gist;
          for (const std::int64_t node : kept)
            if (is_attended) scored.erase(node);
        }
        scored_only += num_vectors * static_cast<std::int64_t>(scored.size());
      }
      ASSERT_EQ(actual.scored_only[query][kv_head].item<std::int64_t>(), scored_only);
    }
  }
  if (!attends_gists) {
    ASSERT_TRUE(actual.visible.gists.empty());
  }
}

void set_random_budget(core::Rng& rng, PolicySpec& spec, bool has_top_p) {
  switch (rng.below(has_top_p ? 4 : 3)) {
    case 0:
      break;
    case 1:
      spec.budget = {Budget::Kind::ratio, 1 + rng.below(6), 0, 0};
      break;
    case 2:
      spec.budget = {Budget::Kind::tokens, 0, 1 + rng.below(rng.below(2) == 0 ? 12 : 60), 0};
      break;
    default:
      spec.budget = {Budget::Kind::top_p, 0, 0, 0.05 + 0.9 * rng.uniform()};
  }
}

PolicySpec random_spec(core::Rng& rng, const char* name, int max_levels) {
  PolicySpec spec = PolicySpec::parse(name);
  spec.layout = random_options(rng, max_levels);
  spec.mode = rng.below(2) == 0 ? PolicySpec::Mode::head : PolicySpec::Mode::group;
  spec.seed = rng.next();
  set_random_budget(rng, spec, spec.name != "random");
  if (spec.name != "gsa" && spec.name != "meanpool") return spec;
  spec.unfold = static_cast<PolicySpec::Unfold>(rng.below(3));
  if (spec.budget.kind != Budget::Kind::top_p && rng.below(3) == 0)
    spec.layer_shares = {1, 3 * rng.uniform()};
  if (spec.name == "gsa" && rng.below(2) == 0)
    spec.route = static_cast<PolicySpec::Route>(rng.below(
        spec.layout.chunk_sizes.num_levels() > 1 || spec.mode == PolicySpec::Mode::group ? 3 : 4));
  return spec;
}

TEST(GistSearch, EqualsBruteForce) {
  at::manual_seed(1);
  core::Rng rng(31);
  Tally tally;
  for (int round = 0; round < 400; ++round) {
    const PolicySpec spec = random_spec(rng, "gsa", 3);
    const Problem problem = random_problem(rng, spec, true);
    const auto policy = make_policy(spec);
    const Selected actual = select(*policy, problem);
    if (problem.layout.num_nodes(0) == 0) continue;
    BruteForce expected(spec, problem, *actual.visible.ranges, route_score(spec, problem));
    const std::int64_t num_vectors = spec.route == PolicySpec::Route::oracle ? 0 : 1;
    expect_equal(actual, problem, expected, true, num_vectors, tally, spec.route);
    if (HasFatalFailure()) FAIL() << "round " << round << ": " << spec.to_string();
  }
  EXPECT_LT(tally.num_ties, tally.num_rows / 20);
}

TEST(MeanSearch, EqualsBruteForce) {
  at::manual_seed(2);
  core::Rng rng(32);
  Tally tally;
  for (int round = 0; round < 300; ++round) {
    const PolicySpec spec = random_spec(rng, "meanpool", 1);
    const Problem problem = random_problem(rng, spec, false);
    const auto policy = make_policy(spec);
    const Selected actual = select(*policy, problem);
    if (problem.layout.num_nodes(0) == 0) continue;
    BruteForce expected(spec, problem, *actual.visible.ranges, mean_score(problem));
    expect_equal(actual, problem, expected, false, 1, tally);
    if (HasFatalFailure()) FAIL() << "round " << round << ": " << spec.to_string();
  }
  EXPECT_LT(tally.num_ties, tally.num_rows / 20);
}

TEST(QuestSearch, EqualsBruteForce) {
  at::manual_seed(11);
  core::Rng rng(39);
  Tally tally;
  for (int round = 0; round < 300; ++round) {
    PolicySpec spec = random_spec(rng, "quest", 1);
    spec.mode = PolicySpec::Mode::head;
    spec.dense_layers = rng.below(2);
    const Problem problem = random_problem(rng, spec, false);
    const auto policy = make_policy(spec);
    const Selected actual = select(*policy, problem);
    if (problem.layout.num_nodes(0) == 0) continue;
    BruteForce expected(spec, problem, *actual.visible.ranges, bound_score(problem));
    expect_equal(actual, problem, expected, false, 2, tally);
    if (HasFatalFailure()) FAIL() << "round " << round << ": " << spec.to_string();
  }
  EXPECT_LT(tally.num_ties, tally.num_rows / 20);
}

TEST(QuestSearch, FirstLayersAndPromptsAreDense) {
  const auto kind = [](const Policy& policy, std::int64_t layer) {
    return policy.suffix_rule(layer).kind;
  };
  using Kind = StaticRule::Kind;
  const auto policy = make_policy(PolicySpec::parse("quest@16"));
  EXPECT_EQ(kind(*policy, 0), Kind::full);
  EXPECT_EQ(kind(*policy, 1), Kind::full);
  EXPECT_EQ(kind(*policy, 2), Kind::local);
  EXPECT_FALSE(policy->selects(1));
  EXPECT_TRUE(policy->selects(2));
  policy->begin_prompt();
  EXPECT_EQ(kind(*policy, 2), Kind::full);
  EXPECT_FALSE(policy->selects(2));
  policy->end_prompt();
  EXPECT_TRUE(policy->selects(2));
  const auto sparse = make_policy(PolicySpec::parse("quest@16:dense=0"));
  EXPECT_EQ(kind(*sparse, 0), Kind::local);
  EXPECT_TRUE(sparse->selects(0));
  // Pages hold 16 tokens each, whatever words they cut.
  const Layout layout = build(policy->spec().layout, {std::vector<std::uint8_t>(40, 0)});
  EXPECT_EQ(layout.children(0, 0), (Range{0, 16}));
  EXPECT_EQ(layout.children(0, 1), (Range{16, 32}));
}

/// Policies that remember what they made of a page's keys.
class PageState : public testing::TestWithParam<const char*> {};

TEST_P(PageState, FollowsAGrowingAndATruncatedContext) {
  at::manual_seed(3);
  core::Rng rng(33);
  for (int round = 0; round < 50; ++round) {
    PolicySpec spec = random_spec(rng, GetParam(), 1);
    if (spec.name == "quest") spec.mode = PolicySpec::Mode::head;
    spec.dense_layers = 0;
    Problem problem = random_problem(rng, spec, false);
    const auto policy = make_policy(spec);
    const Layout whole = problem.layout;
    const KvArenas arenas = problem.arenas;
    const auto check = [&] {
      const Selected actual = select(*policy, problem), fresh = select(*make_policy(spec), problem);
      ASSERT_EQ(actual.visible.unfolded.defined(), fresh.visible.unfolded.defined());
      if (actual.visible.unfolded.defined()) {
        ASSERT_TRUE(actual.visible.unfolded.equal(fresh.visible.unfolded)) << "round " << round;
      }
    };
    problem.layout = build(spec.layout, {std::vector<std::uint8_t>(whole.num_raw() / 2, 1)});
    check();  // then more chunks of the same text
    problem.layout.append(std::vector<std::uint8_t>(whole.num_raw() - whole.num_raw() / 2, 1));
    check();
    // Other keys behind the same indices: the policy must not remember the old ones.
    policy->truncate(0);
    for (KvSpan& span : problem.arenas.raw.spans) span.k = at::randn(span.k.sizes());
    check();
    if (HasFatalFailure()) return;
  }
}

INSTANTIATE_TEST_SUITE_P(Policies, PageState, testing::Values("meanpool", "quest"),
                         [](const auto& info) { return std::string(info.param); });

TEST(RandomSearch, EqualsBruteForceOnItsNoise) {
  core::Rng rng(34);
  Tally tally;
  for (int round = 0; round < 300; ++round) {
    PolicySpec spec = random_spec(rng, "random", 1);
    if (rng.below(2) == 0) spec.read = PolicySpec::Read::gist;
    const bool has_gists = spec.read == PolicySpec::Read::gist;
    const Problem problem = random_problem(rng, spec, has_gists);
    const auto policy = make_policy(spec);
    const Selected actual = select(*policy, problem);
    const std::int64_t num_chunks = problem.layout.num_nodes(0);
    if (num_chunks == 0) continue;
    // One number per query, search and chunk, in this order; in mode group the first head of a
    // group stands for its only search.
    const bool is_group = spec.mode == PolicySpec::Mode::group;
    const std::int64_t heads_per_search = is_group ? problem.group() : 1;
    const std::int64_t num_searches = problem.q.size(1) / heads_per_search;
    core::Rng noise_rng(spec.seed);
    std::vector<float> noise(problem.queries.count * num_searches * num_chunks);
    for (float& value : noise) value = noise_rng.uniform();
    BruteForce expected(
        spec, problem, *actual.visible.ranges,
        [&](int, std::int64_t chunk, std::int64_t query, std::int64_t head) -> double {
          if (head % heads_per_search != 0) return 0;
          return noise[(query * num_searches + head / heads_per_search) * num_chunks + chunk];
        });
    expect_equal(actual, problem, expected, has_gists, 0, tally);
    if (HasFatalFailure()) FAIL() << "round " << round << ": " << spec.to_string();
  }
  EXPECT_LT(tally.num_ties, tally.num_rows / 20);
}

TEST(RandomSearch, SeedDecides) {
  core::Rng rng(35);
  PolicySpec spec = PolicySpec::parse("random@2:ratio=1");
  Problem problem = random_problem(rng, spec, false);
  problem.layout = build(spec.layout, {std::vector<std::uint8_t>(80, 1)});
  problem.queries = {kRawLevel, 80, problem.queries.count};
  const auto draw = [&](std::uint64_t seed, int num_calls) {
    spec.seed = seed;
    const auto policy = make_policy(spec);
    Selected result;
    for (int i = 0; i < num_calls; ++i) result = select(*policy, problem);
    return result.visible.unfolded;
  };
  EXPECT_TRUE(draw(7, 1).equal(draw(7, 1)));
  EXPECT_TRUE(draw(7, 3).equal(draw(7, 3)));
  EXPECT_FALSE(draw(7, 1).equal(draw(8, 1)));
  EXPECT_FALSE(draw(7, 1).equal(draw(7, 2)));  // every call draws anew
}

TEST(SearchPolicy, EmptyContextsSelectNothing) {
  core::Rng rng(36);
  for (const char* text :
       {"gsa@4-2", "meanpool@4", "random@4", "gsa@4:tokens=8", "gsa@4:top_p=0.5"}) {
    const PolicySpec spec = PolicySpec::parse(text);
    Problem problem = random_problem(rng, spec, spec.name == "gsa");
    problem.layout = Layout(spec.layout);
    problem.queries.begin = 0;
    for (KvArena& arena : problem.arenas.gists) arena = {};
    const Selected selected = select(*make_policy(spec), problem);
    EXPECT_FALSE(selected.visible.has_selection()) << text;
    EXPECT_FALSE(selected.scored_only.defined()) << text;
  }
}

TEST(SearchPolicy, ASingleChunkIsChosen) {
  core::Rng rng(37);
  for (const char* text : {"gsa@4-2", "gsa@4-2-2", "meanpool@4", "random@4", "gsa@4:tokens=8",
                           "gsa@4-2:top_p=0.5", "gsa@4-2:mode=group"}) {
    const PolicySpec spec = PolicySpec::parse(text);
    Problem problem = random_problem(rng, spec, spec.name == "gsa");
    problem.layout = build(spec.layout, {{1}});
    problem.queries.begin = 1;
    const std::int64_t num_kv_heads = problem.num_kv_heads(), d = problem.q.size(2);
    for (std::size_t level = 0; level < problem.arenas.gists.size(); ++level) {
      const std::int64_t num_nodes = problem.layout.num_nodes(static_cast<int>(level));
      problem.arenas.gists[level] = random_arena(rng, num_kv_heads, num_nodes, d);
    }
    const Selected selected = select(*make_policy(spec), problem);
    for (std::int64_t query = 0; query < problem.queries.count; ++query) {
      for (std::int64_t kv_head = 0; kv_head < num_kv_heads; ++kv_head) {
        EXPECT_EQ(row_of(selected.visible.unfolded, query, kv_head), Ids{0}) << text;
      }
    }
  }
}

/// What the variants of `gists` attend and count.
TEST(GistSearch, GistsVariantsDifferInGistsOnly) {
  at::manual_seed(4);
  core::Rng rng(38);
  for (int round = 0; round < 50; ++round) {
    PolicySpec spec = random_spec(rng, "gsa", 2);
    const Problem problem = random_problem(rng, spec, true);
    if (problem.layout.num_nodes(0) == 0) continue;
    const auto run = [&](PolicySpec::Gists gists) {
      spec.gists = gists;
      return select(*make_policy(spec), problem);
    };
    const Selected selected = run(PolicySpec::Gists::selected), all = run(PolicySpec::Gists::all),
                   hidden = run(PolicySpec::Gists::hidden);
    ASSERT_TRUE(all.visible.unfolded.equal(selected.visible.unfolded));
    ASSERT_TRUE(hidden.visible.unfolded.equal(selected.visible.unfolded));
    ASSERT_TRUE(all.visible.gists.empty());
    ASSERT_TRUE(hidden.visible.gists.empty());
    if (spec.route != PolicySpec::Route::gist) continue;
    EXPECT_EQ(all.scored_only.sum().item<std::int64_t>(), 0);  // every gist is attended anyway
    if (spec.unfold != PolicySpec::Unfold::chunk) continue;    // gists of neighbours are not scored
    at::Tensor attended = selected.scored_only.clone();
    for (const at::Tensor& ids : selected.visible.gists) {
      if (ids.defined()) attended += ids.ge(0).sum(-1);
    }
    EXPECT_TRUE(hidden.scored_only.equal(attended));
  }
}

}  // namespace
}  // namespace gsa::attention
