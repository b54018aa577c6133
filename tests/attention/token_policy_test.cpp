#include "attention/token_policy.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/randn.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>

#include "attention/attend.h"
#include "attention/attention_mass.h"
#include "attention/key_pieces.h"
#include "attention/random_arena.h"
#include "attention/random_layout.h"

// Policies that keep single tokens, against their rules in plain loops and double precision.
namespace gsa::attention {
namespace {

using Ids = std::set<std::int64_t>;
using Row = std::vector<double>;

// Two amounts of attention nearer than this may swap their ranks in single precision.
constexpr double kTieGap = 1e-5;

/// A context and a suffix behind it, with a query per token.
struct Problem {
  Layout layout{LayoutOptions{}};
  KvArenas arenas;
  at::Tensor q;     // [n + suffix, H, d]
  at::Tensor keys;  // [H_kv, n + suffix, d], the arena's in one piece
  std::int64_t num_suffix = 0;
  double scale = 1;

  std::int64_t num_raw() const { return layout.num_raw(); }
  std::int64_t num_kv_heads() const { return keys.size(0); }
  std::int64_t group() const { return q.size(1) / num_kv_heads(); }
};

Problem random_problem(core::Rng& rng, const PolicySpec& spec) {
  Problem problem;
  problem.layout = build(spec.layout, random_pieces(rng, 3, 40));
  if (problem.layout.num_raw() == 0) problem.layout.append(std::vector<std::uint8_t>(1, 1));
  problem.num_suffix = 1 + rng.below(20);
  const std::int64_t num_kv_heads = 1 + rng.below(3), group = 1 + rng.below(3),
                     d = 4 * (1 + rng.below(3)), total = problem.num_raw() + problem.num_suffix;
  problem.arenas.raw = random_arena(rng, num_kv_heads, total, d);
  std::vector<at::Tensor> parts;
  for (const KvSpan& span : problem.arenas.raw.spans) parts.push_back(span.k);
  problem.keys = at::cat(parts, 1).contiguous();
  problem.q = at::randn({total, num_kv_heads * group, d});
  problem.scale = 1.5 / std::sqrt(static_cast<double>(d));
  return problem;
}

/// Attention of query `i` over the keys in `seen`, summed over the heads of a KV head; 0 elsewhere.
template <typename Keys>
Row attention_of(const Problem& problem, std::int64_t i, std::int64_t kv_head, const Keys& seen) {
  const std::int64_t d = problem.q.size(2), total = problem.keys.size(1);
  Row mass(total, 0);
  for (std::int64_t g = 0; g < problem.group(); ++g) {
    const std::int64_t head = kv_head * problem.group() + g;
    const float* q = problem.q.data_ptr<float>() + (i * problem.q.size(1) + head) * d;
    Row weights;
    double sum = 0;
    for (const std::int64_t j : seen) {
      const float* k = problem.keys.data_ptr<float>() + (kv_head * total + j) * d;
      double score = 0;
      for (std::int64_t x = 0; x < d; ++x) score += static_cast<double>(q[x]) * k[x];
      weights.push_back(std::exp(score * problem.scale));
      sum += weights.back();
    }
    std::size_t at = 0;
    for (const std::int64_t j : seen) mass[j] += weights[at++] / sum;
  }
  return mass;
}

Ids all_until(std::int64_t i) {
  Ids ids;
  for (std::int64_t j = 0; j <= i; ++j) ids.insert(ids.end(), j);
  return ids;
}

/// Tokens of [0, end) with the largest amounts; `gap` is lowered to that between in and out.
Ids best_of(const Row& amounts, const Ids& among, std::int64_t count, double& gap) {
  std::vector<std::pair<double, std::int64_t>> ranked;
  for (const std::int64_t j : among) ranked.emplace_back(amounts[j], j);
  std::sort(ranked.rbegin(), ranked.rend());
  const auto size = std::min(static_cast<std::int64_t>(ranked.size()), count);
  if (size > 0 && size < std::ssize(ranked))
    gap = std::min(gap, ranked[size - 1].first - ranked[size].first);
  Ids best;
  for (std::int64_t i = 0; i < size; ++i) best.insert(ranked[i].second);
  return best;
}

std::int64_t budget_of(const PolicySpec& spec, const Problem& problem) {
  if (spec.budget.kind == Budget::Kind::tokens) return spec.budget.tokens;
  const std::int64_t ratio = spec.budget.ratio == 0 ? 8 : spec.budget.ratio;
  return std::max<std::int64_t>(1, problem.num_raw() / ratio);
}

PolicySpec random_spec(core::Rng& rng, const char* name) {
  PolicySpec spec = PolicySpec::parse(name);
  if (rng.below(3) > 0)
    spec.budget = {Budget::Kind::tokens, 0, 1 + rng.below(60), 0};
  else if (rng.below(2) == 0)
    spec.budget = {Budget::Kind::ratio, 1 + rng.below(6), 0, 0};
  if (spec.name == "snapkv") spec.window = 1 + rng.below(24);
  return spec;
}

/// Runs suffix rows [begin, begin + count), counted from the context's end.
VisibleSet select(Policy& policy, const Problem& problem, std::int64_t begin, std::int64_t count) {
  const QuerySlice queries{kRawLevel, problem.num_raw() + begin, count};
  VisibleSet visible;
  visible.layout = &problem.layout;
  visible.ranges =
      std::make_shared<RangeTable>(visible_ranges(problem.layout, policy.suffix_rule(0), queries));
  // As in a session, no later keys are stored yet.
  KvArenas arenas;
  arenas.raw.spans = spans_in(problem.arenas.raw, {0, queries.begin + count});
  const at::Tensor scored = policy.select({0, problem.q.narrow(0, queries.begin, count), &arenas,
                                           &problem.layout, visible.ranges, problem.scale},
                                          visible);
  EXPECT_FALSE(scored.defined()) << "nothing is read only to choose";
  return visible;
}

/// Chosen tokens of one row and KV head; checks that they ascend, once each, -1 behind them.
Ids row_of(const VisibleSet& visible, std::int64_t query, std::int64_t kv_head) {
  const at::Tensor row = visible.tokens[query][kv_head].contiguous();
  Ids ids;
  bool has_ended = false;
  for (std::int64_t i = 0; i < row.size(0); ++i) {
    const std::int64_t id = row.data_ptr<std::int64_t>()[i];
    has_ended = has_ended || id < 0;
    if (has_ended) {
      EXPECT_EQ(id, -1);
    } else {
      EXPECT_TRUE(ids.empty() || id > *ids.rbegin());
      ids.insert(id);
    }
  }
  return ids;
}

/// Lengths that add up to `total`.
std::vector<std::int64_t> random_steps(core::Rng& rng, std::int64_t total) {
  std::vector<std::int64_t> steps;
  while (total > 0) {
    steps.push_back(1 + rng.below(static_cast<std::uint32_t>(total)));
    total -= steps.back();
  }
  return steps;
}

TEST(AttentionMass, SumsProbabilitiesPerKey) {
  at::manual_seed(5);
  core::Rng rng(50);
  for (int round = 0; round < 60; ++round) {
    LayoutOptions options = random_options(rng, 1);
    PolicySpec spec;
    spec.layout = options;
    Problem problem = random_problem(rng, spec);
    // Gist keys take their share of the softmax and are left out of the sums.
    const std::int64_t num_gists = problem.layout.num_nodes(0);
    problem.arenas.gists = {
        random_arena(rng, problem.num_kv_heads(), num_gists, problem.q.size(2))};
    StaticRule rule;
    rule.kind = static_cast<StaticRule::Kind>(rng.below(5));
    rule.window = 1 + rng.below(30);
    const std::int64_t total = problem.q.size(0);
    const std::int64_t begin = rng.below(static_cast<std::uint32_t>(total));
    const at::Tensor q = problem.q.narrow(0, begin, total - begin);
    VisibleSet visible;
    visible.layout = &problem.layout;
    visible.ranges = std::make_shared<RangeTable>(
        visible_ranges(problem.layout, rule, {kRawLevel, begin, total - begin}));
    const at::Tensor lse = attend_reference(q, problem.arenas, visible, problem.scale).lse;
    const at::Tensor mass = attention_mass(q, lse, problem.arenas, *visible.ranges, problem.scale);
    ASSERT_LE(mass.size(1), total);
    for (std::int64_t kv_head = 0; kv_head < problem.num_kv_heads(); ++kv_head) {
      for (std::int64_t j = 0; j < mass.size(1); ++j) {
        double expected = 0;
        for (std::int64_t t = 0; t < q.size(0); ++t) {
          const bool sees = std::any_of(
              visible.ranges->columns.begin(), visible.ranges->columns.end(), [&](const auto& c) {
                return c.level == kRawLevel && j >= c.begin[t] && j < c.end[t];
              });
          if (!sees) continue;
          for (std::int64_t g = 0; g < problem.group(); ++g) {
            const std::int64_t head = kv_head * problem.group() + g;
            const double score =
                q[t][head].dot(problem.keys[kv_head][j]).item<double>() * problem.scale;
            expected += std::exp(score - lse[t][head].item<double>());
          }
        }
        ASSERT_NEAR(mass[kv_head][j].item<double>(), expected, 1e-4 * (1 + expected))
            << "round " << round << ", key " << j;
      }
    }
  }
}

TEST(Oracle, ChoosesTheLargestTrueAttention) {
  at::manual_seed(6);
  core::Rng rng(51);
  int num_rows = 0, num_ties = 0;
  for (int round = 0; round < 200; ++round) {
    const PolicySpec spec = random_spec(rng, "oracle");
    const Problem problem = random_problem(rng, spec);
    const auto policy = make_policy(spec);
    std::int64_t begin = 0;
    for (const std::int64_t count : random_steps(rng, problem.num_suffix)) {
      const VisibleSet visible = select(*policy, problem, begin, count);
      for (std::int64_t t = 0; t < count; ++t) {
        for (std::int64_t head = 0; head < problem.num_kv_heads(); ++head) {
          const std::int64_t i = problem.num_raw() + begin + t;
          double gap = 1;
          const Ids expected =
              best_of(attention_of(problem, i, head, all_until(i)),
                      all_until(problem.num_raw() - 1), budget_of(spec, problem), gap);
          ++num_rows;
          if (gap < kTieGap) {
            ++num_ties;
          } else {
            ASSERT_EQ(row_of(visible, t, head), expected) << "round " << round;
          }
        }
      }
      begin += count;
    }
  }
  EXPECT_LT(num_ties, num_rows / 20);
}

/// Votes of the prompt's last queries, pooled: what SnapKV ranks.
Row pooled_votes(const PolicySpec& spec, const Problem& problem, std::int64_t prompt_len,
                 std::int64_t kv_head, std::int64_t num_ranked) {
  Row votes(problem.keys.size(1), 0), pooled(num_ranked);
  const std::int64_t last = problem.num_raw() + prompt_len - 1;
  for (std::int64_t i = std::max(problem.num_raw(), last + 1 - spec.window); i <= last; ++i) {
    const Row mass = attention_of(problem, i, kv_head, all_until(i));
    for (std::size_t j = 0; j < votes.size(); ++j) votes[j] += mass[j];
  }
  for (std::int64_t j = 0; j < num_ranked; ++j) {
    const std::int64_t first = std::max<std::int64_t>(0, j - 3), end = std::min(num_ranked, j + 4);
    pooled[j] = *std::max_element(votes.begin() + first, votes.begin() + end);
  }
  return pooled;
}

TEST(SnapKv, KeepsWhatTheEndOfThePromptVotesFor) {
  at::manual_seed(7);
  core::Rng rng(52);
  for (int round = 0; round < 200; ++round) {
    const PolicySpec spec = random_spec(rng, "snapkv");
    const Problem problem = random_problem(rng, spec);
    const auto policy = make_policy(spec);
    const std::int64_t prompt_len = 1 + rng.below(static_cast<std::uint32_t>(problem.num_suffix));
    policy->begin_prompt();
    std::int64_t begin = 0;
    for (const std::int64_t count : random_steps(rng, prompt_len - 1)) {
      EXPECT_EQ(policy->suffix_rule(0).kind, StaticRule::Kind::full);
      EXPECT_FALSE(select(*policy, problem, begin, count).has_selection());
      begin += count;
    }
    policy->end_prompt();
    EXPECT_EQ(policy->suffix_rule(0).kind, StaticRule::Kind::suffix);
    const std::int64_t k = std::min(problem.num_raw(), budget_of(spec, problem));
    const std::int64_t num_recent = std::clamp<std::int64_t>(spec.window - prompt_len, 0, k);
    const std::int64_t num_ranked = problem.num_raw() - num_recent;
    for (const std::int64_t count : random_steps(rng, problem.num_suffix - begin)) {
      const VisibleSet visible = select(*policy, problem, begin, count);
      for (std::int64_t head = 0; head < problem.num_kv_heads(); ++head) {
        const Ids ids = row_of(visible, count - 1, head);
        ASSERT_EQ(ids, row_of(visible, 0, head));
        ASSERT_EQ(std::ssize(ids), k);
        const Row pooled = pooled_votes(spec, problem, prompt_len, head, num_ranked);
        Row best = pooled, chosen;
        std::sort(best.rbegin(), best.rend());
        for (const std::int64_t id : ids)
          if (id < num_ranked) chosen.push_back(pooled[id]);
        ASSERT_EQ(std::ssize(chosen), k - num_recent) << "the window's tokens stay";
        std::sort(chosen.rbegin(), chosen.rend());
        // Pooled votes are often equal, so amounts are compared.
        for (std::size_t i = 0; i < chosen.size(); ++i)
          ASSERT_NEAR(chosen[i], best[i], kTieGap) << "round " << round;
      }
      begin += count;
    }
  }
}

TEST(SnapKv, VotesAnewForEveryPrompt) {
  at::manual_seed(8);
  core::Rng rng(53);
  const PolicySpec spec = PolicySpec::parse("snapkv:tokens=6:window=3");
  Problem problem = random_problem(rng, spec);
  while (problem.num_raw() < 40 || problem.num_suffix < 16) problem = random_problem(rng, spec);
  const auto policy = make_policy(spec), fresh = make_policy(spec);
  const auto answer = [&](Policy& some) {
    some.begin_prompt();
    select(some, problem, 8, 6);
    some.end_prompt();
    return select(some, problem, 14, 2).tokens;
  };
  select(*policy, problem, 0, 8);
  EXPECT_TRUE(answer(*policy).equal(answer(*fresh)));
  policy->truncate(problem.num_raw());
  EXPECT_TRUE(answer(*policy).equal(answer(*fresh)));
}

/// Column sums of the context's own attention, in steps as a reading takes them.
void read_context(core::Rng& rng, Policy& policy, const Problem& problem) {
  std::int64_t begin = 0;
  for (const std::int64_t count : random_steps(rng, problem.num_raw())) {
    VisibleSet visible;
    visible.layout = &problem.layout;
    visible.ranges = std::make_shared<RangeTable>(
        visible_ranges(problem.layout, policy.context_rule(kRawLevel), {kRawLevel, begin, count}));
    const at::Tensor q = problem.q.narrow(0, begin, count);
    const at::Tensor lse = attend(q, problem.arenas, visible, problem.scale).lse;
    policy.observe(0, attention_mass(q, lse, problem.arenas, *visible.ranges, problem.scale));
    begin += count;
  }
}

/// The greedy rule, one query after the other.
class GreedyEviction {
 public:
  GreedyEviction(const PolicySpec& spec, const Problem& problem, std::int64_t kv_head)
      : problem_(problem), kv_head_(kv_head), mass_(problem.keys.size(1), 0) {
    const std::int64_t budget = budget_of(spec, problem);
    num_heavy_ = budget / 2;
    num_recent_ = budget - num_heavy_;
    for (std::int64_t i = 0; i < problem.num_raw(); ++i) add(i, all_until(i));
    left_ = all_until(problem.num_raw() - 1);
  }

  /// Context tokens that query `i` sees.
  Ids next(std::int64_t i) {
    Ids old, recent;
    for (const std::int64_t j : left_) (j > i - num_recent_ ? recent : old).insert(j);
    left_ = best_of(mass_, old, num_heavy_, gap);
    left_.insert(recent.begin(), recent.end());
    Ids seen = left_;
    for (std::int64_t j = problem_.num_raw(); j <= i; ++j) seen.insert(j);
    add(i, seen);
    return left_;
  }

  double gap = 1;

 private:
  void add(std::int64_t i, const Ids& seen) {
    const Row received = attention_of(problem_, i, kv_head_, seen);
    for (std::size_t j = 0; j < mass_.size(); ++j) mass_[j] += received[j];
  }

  const Problem& problem_;
  std::int64_t kv_head_, num_heavy_ = 0, num_recent_ = 0;
  Row mass_;
  Ids left_;
};

TEST(H2o, EvictsGreedily) {
  at::manual_seed(9);
  core::Rng rng(54);
  int num_heads = 0, num_ties = 0;
  for (int round = 0; round < 200; ++round) {
    const PolicySpec spec = random_spec(rng, "h2o");
    const Problem problem = random_problem(rng, spec);
    const auto reader = make_policy(spec), policy = make_policy(spec);
    read_context(rng, *reader, problem);
    policy->follow(*reader);
    std::vector<GreedyEviction> expected;
    for (std::int64_t head = 0; head < problem.num_kv_heads(); ++head)
      expected.emplace_back(spec, problem, head);
    num_heads += static_cast<int>(expected.size());
    std::set<std::int64_t> tied;
    std::int64_t begin = 0;
    for (const std::int64_t count : random_steps(rng, problem.num_suffix)) {
      const VisibleSet visible = select(*policy, problem, begin, count);
      for (std::int64_t t = 0; t < count; ++t) {
        for (std::int64_t head = 0; head < problem.num_kv_heads(); ++head) {
          const Ids ids = expected[head].next(problem.num_raw() + begin + t);
          if (expected[head].gap < kTieGap) tied.insert(head);
          if (tied.count(head) > 0) continue;
          ASSERT_EQ(row_of(visible, t, head), ids) << "round " << round << ", row " << begin + t;
        }
      }
      begin += count;
    }
    num_ties += static_cast<int>(tied.size());
  }
  EXPECT_LT(num_ties, num_heads / 10);
}

TEST(H2o, StartsAnewBehindTheContext) {
  at::manual_seed(10);
  core::Rng rng(55);
  const PolicySpec spec = PolicySpec::parse("h2o:tokens=12");
  Problem problem = random_problem(rng, spec);
  while (problem.num_raw() < 40 || problem.num_suffix < 10) problem = random_problem(rng, spec);
  const auto reader = make_policy(spec), policy = make_policy(spec);
  read_context(rng, *reader, problem);
  policy->follow(*reader);
  const at::Tensor first = select(*policy, problem, 0, 5).tokens;
  select(*policy, problem, 5, 5);
  policy->truncate(problem.num_raw());
  EXPECT_TRUE(select(*policy, problem, 0, 5).tokens.equal(first));
  // One reading serves any number of policies.
  const auto other = make_policy(spec);
  other->follow(*reader);
  EXPECT_TRUE(select(*other, problem, 0, 5).tokens.equal(first));
}

}  // namespace
}  // namespace gsa::attention
