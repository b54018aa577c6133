#include <ATen/core/grad_mode.h>
#include <ATen/ops/allclose.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/randn.h>
#include <gtest/gtest.h>

#include <cctype>
#include <memory>

#include "ATen/CPUGeneratorImpl.h"
#include "attention/attend.h"
#include "attention/policy.h"
#include "attention/random_arena.h"
#include "attention/random_layout.h"

// Suffixes of one context that do not see each other, in one slice of queries.
namespace gsa::attention {
namespace {

constexpr std::int64_t kNumKvHeads = 2, kNumHeads = 6, kHeadDim = 8;

const char* const kSpecs[] = {"full",
                              "streaming:tokens=9",
                              "gist-only@4-2",
                              "gsa@4",
                              "gsa@2-2:ratio=2:mode=group",
                              "gsa@4:tokens=12",
                              "gsa@3-2-2:tokens=9",
                              "gsa@4-2:top_p=0.4:local=0",
                              "gsa@4:tokens=12:gists=all",
                              "gsa@4-2:tokens=16:read=full"};

struct Problem {
  Layout layout{LayoutOptions{}};
  std::unique_ptr<Policy> policy;
  KvArenas context;
  std::vector<std::int64_t> branch_lens;
  at::Tensor q;     // [T, H, d] of all branches
  at::Tensor k, v;  // [H_kv, T, d]

  /// Keys of the context and of suffix tokens [begin, begin + len).
  KvArenas arenas(std::int64_t begin, std::int64_t len) const {
    KvArenas result = context;
    result.raw.spans.push_back(
        {k.narrow(1, begin, len), v.narrow(1, begin, len), layout.num_raw()});
    return result;
  }
};

Problem random_problem(core::Rng& rng, const char* spec, int max_piece) {
  Problem problem;
  problem.policy = make_policy(PolicySpec::parse(spec));
  const LayoutOptions& options = problem.policy->spec().layout;
  do {  // sinks would lie in every branch otherwise
    problem.layout = build(options, random_pieces(rng, 3, max_piece));
  } while (problem.layout.num_raw() < options.num_sinks);
  std::int64_t num_suffix = 0;
  for (std::uint32_t i = 0, count = 1 + rng.below(4); i < count; ++i)
    num_suffix += problem.branch_lens.emplace_back(1 + rng.below(9));
  problem.context.raw = random_arena(rng, kNumKvHeads, problem.layout.num_raw(), kHeadDim);
  for (int level = 0; level < problem.layout.num_levels(); ++level) {
    problem.context.gists.push_back(
        random_arena(rng, kNumKvHeads, problem.layout.num_nodes(level), kHeadDim));
  }
  problem.q = at::randn({num_suffix, kNumHeads, kHeadDim});
  problem.k = at::randn({kNumKvHeads, num_suffix, kHeadDim});
  problem.v = at::randn({kNumKvHeads, num_suffix, kHeadDim});
  return problem;
}

constexpr double kScale = 0.4;

VisibleSet visible_set(const Problem& problem, std::int64_t layer, const QuerySlice& slice,
                       const at::Tensor& q, const KvArenas& arenas) {
  VisibleSet visible;
  visible.layout = &problem.layout;
  visible.ranges = std::make_shared<const RangeTable>(
      visible_ranges(problem.layout, problem.policy->suffix_rule(layer), slice));
  if (problem.policy->selects(layer)) {
    problem.policy->select({layer, q.detach(), &arenas, &problem.layout, visible.ranges, kScale},
                           visible);
  }
  return visible;
}

QuerySlice all_branches(const Problem& problem) {
  QuerySlice slice{kRawLevel, problem.layout.num_raw(), 0, {}};
  for (const std::int64_t len : problem.branch_lens) {
    slice.branch_begins.insert(slice.branch_begins.end(), len, slice.begin + slice.count);
    slice.count += len;
  }
  return slice;
}

Attended together(const Problem& problem, std::int64_t layer, decltype(attend)* run = attend) {
  const KvArenas arenas = problem.arenas(0, problem.q.size(0));
  return run(problem.q, arenas,
             visible_set(problem, layer, all_branches(problem), problem.q, arenas), kScale);
}

/// Every branch as the only suffix.
Attended one_by_one(const Problem& problem, std::int64_t layer) {
  std::vector<at::Tensor> outs, lses;
  std::int64_t begin = 0;
  for (const std::int64_t len : problem.branch_lens) {
    const KvArenas arenas = problem.arenas(begin, len);
    const at::Tensor q = problem.q.narrow(0, begin, len);
    const QuerySlice slice{kRawLevel, problem.layout.num_raw(), len, {}};
    const Attended part = attend(q, arenas, visible_set(problem, layer, slice, q, arenas), kScale);
    outs.push_back(part.out);
    lses.push_back(part.lse);
    begin += len;
  }
  return {at::cat(outs), at::cat(lses)};
}

class Branches : public testing::TestWithParam<const char*> {};

TEST_P(Branches, EqualTheReferenceAndEachAlone) {
  at::manual_seed(61);
  core::Rng rng(61);
  const at::NoGradGuard no_grad;
  for (int round = 0; round < 40; ++round) {
    const Problem problem = random_problem(rng, GetParam(), round % 10 == 0 ? 400 : 40);
    for (const std::int64_t layer : {0, 1}) {
      const Attended actual = together(problem, layer);
      const Attended reference = together(problem, layer, attend_reference);
      const Attended alone = one_by_one(problem, layer);
      // f32 sums in another order.
      ASSERT_TRUE(at::allclose(actual.out, reference.out, 2e-5, 2e-5)) << "round " << round;
      ASSERT_TRUE(at::allclose(actual.lse, reference.lse, 2e-5, 2e-5)) << "round " << round;
      ASSERT_TRUE(at::allclose(actual.out, alone.out, 2e-5, 2e-5)) << "round " << round;
      ASSERT_TRUE(at::allclose(actual.lse, alone.lse, 2e-5, 2e-5)) << "round " << round;
    }
  }
}

TEST_P(Branches, HaveTheGradientsOfEachAlone) {
  at::manual_seed(62);
  core::Rng rng(62);
  for (int round = 0; round < 10; ++round) {
    Problem problem = random_problem(rng, GetParam(), 40);
    std::vector<at::Tensor> inputs{problem.q, problem.k, problem.v};
    const auto add_arena = [&](KvArena& arena) {
      for (KvSpan& span : arena.spans) inputs.insert(inputs.end(), {span.k, span.v});
    };
    add_arena(problem.context.raw);
    for (KvArena& arena : problem.context.gists) add_arena(arena);
    for (at::Tensor& input : inputs) input.requires_grad_(true);
    const at::Tensor weight = at::randn(problem.q.sizes());
    const auto gradients = [&](auto run) {
      for (at::Tensor& input : inputs) input.mutable_grad() = at::Tensor();
      run(problem, 1).out.mul(weight).sum().backward();
      std::vector<at::Tensor> grads;
      for (const at::Tensor& input : inputs) grads.push_back(input.grad());
      return grads;
    };
    const auto actual =
        gradients([](const Problem& p, std::int64_t layer) { return together(p, layer); });
    const auto expected = gradients(one_by_one);
    for (std::size_t i = 0; i < inputs.size(); ++i) {
      ASSERT_EQ(actual[i].defined(), expected[i].defined());
      if (!actual[i].defined()) continue;
      ASSERT_TRUE(at::allclose(actual[i], expected[i], 1e-4, 2e-5))
          << "round " << round << ", input " << i;
    }
  }
}

std::string spec_name(const testing::TestParamInfo<const char*>& info) {
  std::string name = info.param;
  for (char& c : name) {
    if (std::isalnum(static_cast<unsigned char>(c)) == 0) c = '_';
  }
  return name;
}
INSTANTIATE_TEST_SUITE_P(Policies, Branches, testing::ValuesIn(kSpecs), spec_name);

}  // namespace
}  // namespace gsa::attention
