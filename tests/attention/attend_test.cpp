#include "attention/attend.h"

#include <ATen/Context.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/allclose.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/full.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include <cmath>

#include "ATen/CPUGeneratorImpl.h"
#include "attention/random_arena.h"
#include "attention/random_layout.h"
#include "attention/selection.h"

namespace gsa::attention {
namespace {

/// A random sequence with stored keys and a visible set for a slice of queries.
struct Problem {
  Layout layout{LayoutOptions{}};
  KvArenas arenas;
  VisibleSet visible;
  at::Tensor q;
  double scale = 1;

  at::Tensor& span_tensor(std::size_t i) {  // k and v of all spans in a row
    std::vector<at::Tensor*> all;
    for (int level = kRawLevel; level < static_cast<int>(arenas.gists.size()); ++level) {
      KvArena& arena = level == kRawLevel ? arenas.raw : arenas.gists[level];
      for (KvSpan& span : arena.spans) {
        all.push_back(&span.k);
        all.push_back(&span.v);
      }
    }
    return *all.at(i);
  }
  std::size_t num_span_tensors() const {
    std::size_t count = 2 * arenas.raw.spans.size();
    for (const KvArena& arena : arenas.gists) count += 2 * arena.spans.size();
    return count;
  }
};

/// Random ids below `limit`, [T, H_kv, K] as selections are: ascending, unique, padded with -1.
at::Tensor random_ids(core::Rng& rng, std::int64_t num_queries, std::int64_t num_kv_heads,
                      std::int64_t limit) {
  const std::int64_t width = rng.below(7);
  at::Tensor ids = at::full({num_queries, num_kv_heads, width}, -1, at::kLong);
  auto* values = ids.data_ptr<std::int64_t>();
  for (std::int64_t i = 0; i < ids.numel() && limit > 0; ++i) {
    if (rng.below(4) != 0) values[i] = rng.below(static_cast<std::uint32_t>(limit));
  }
  return sorted_unique(ids);
}

StaticRule random_rule(core::Rng& rng, int level) {
  StaticRule rule;
  rule.kind = StaticRule::Kind::gist;
  if (level != kRawLevel) return rule;
  rule.kind = static_cast<StaticRule::Kind>(rng.below(4));
  rule.window = 1 + rng.below(20);
  rule.all_gists = rule.kind == StaticRule::Kind::local && rng.below(2) == 0;
  rule.gists_visible = rng.below(4) != 0;
  return rule;
}

Problem random_problem(core::Rng& rng, int max_piece = 40) {
  Problem problem;
  problem.layout = build(random_options(rng, 3), random_pieces(rng, 3, max_piece));
  const Layout& layout = problem.layout;
  constexpr std::int64_t kHeadDims[] = {4, 8, 12, 32};  // multiples of 8 have kernels of their own
  const std::int64_t num_kv_heads = 1 + rng.below(3), group = 1 + rng.below(3),
                     d = kHeadDims[rng.below(4)];
  const std::int64_t num_raw = layout.num_raw() + 1 + rng.below(5);
  problem.arenas.raw = random_arena(rng, num_kv_heads, num_raw, d);
  for (int level = 0; level < layout.num_levels(); ++level) {
    problem.arenas.gists.push_back(random_arena(rng, num_kv_heads, layout.num_nodes(level), d));
  }
  int level = static_cast<int>(rng.below(layout.num_levels() + 1)) - 1;
  if (level >= 0 && layout.num_nodes(level) == 0) level = kRawLevel;
  const std::int64_t total = level == kRawLevel ? num_raw : layout.num_nodes(level);
  const std::int64_t begin = rng.below(static_cast<std::uint32_t>(total));
  const QuerySlice slice{level, begin, 1 + rng.below(static_cast<std::uint32_t>(total - begin))};
  problem.visible.layout = &problem.layout;
  problem.visible.ranges =
      std::make_shared<RangeTable>(visible_ranges(layout, random_rule(rng, level), slice));
  if (rng.below(2) == 0) {
    problem.visible.unfolded = random_ids(rng, slice.count, num_kv_heads, layout.num_nodes(0));
    for (int l = 0; l < layout.num_levels(); ++l) {
      problem.visible.gists.push_back(
          rng.below(2) == 0 ? random_ids(rng, slice.count, num_kv_heads, layout.num_nodes(l))
                            : at::Tensor());
    }
  }
  if (rng.below(4) == 0)
    problem.visible.tokens = random_ids(rng, slice.count, num_kv_heads, num_raw);
  problem.q = at::randn({slice.count, num_kv_heads * group, d});
  problem.scale = 1 / std::sqrt(static_cast<double>(d));
  return problem;
}

/// `visible` keeps a pointer to the layout, so a problem must not move after this.
void fix_pointers(Problem& problem) { problem.visible.layout = &problem.layout; }

void expect_close(const Attended& a, const Attended& b, double tolerance, int round) {
  EXPECT_TRUE(at::allclose(a.out.to(at::kFloat), b.out.to(at::kFloat), tolerance, tolerance))
      << "round " << round << ": out differs by "
      << (a.out.to(at::kFloat) - b.out.to(at::kFloat)).abs().max().item<float>();
  EXPECT_TRUE(at::allclose(a.lse, b.lse, tolerance, tolerance)) << "round " << round;
}

TEST(Attend, EqualsTheReference) {
  at::manual_seed(1);
  core::Rng rng(21);
  for (int round = 0; round < 400; ++round) {
    Problem problem = random_problem(rng);
    fix_pointers(problem);
    at::NoGradGuard no_grad;
    expect_close(attend(problem.q, problem.arenas, problem.visible, problem.scale),
                 attend_reference(problem.q, problem.arenas, problem.visible, problem.scale), 2e-5,
                 round);
    if (HasFailure()) return;
  }
}

TEST(Attend, EqualsTheReferenceOnLongTextsInSeveralBlocks) {
  core::Rng rng(22);
  for (int round = 0; round < 12; ++round) {
    Problem problem = random_problem(rng, 900);
    fix_pointers(problem);
    at::NoGradGuard no_grad;
    expect_close(attend(problem.q, problem.arenas, problem.visible, problem.scale),
                 attend_reference(problem.q, problem.arenas, problem.visible, problem.scale), 2e-5,
                 round);
  }
}

TEST(Attend, BfloatStaysWithinItsRounding) {
  core::Rng rng(23);
  for (int round = 0; round < 100; ++round) {
    Problem problem = random_problem(rng, round % 10 == 0 ? 900 : 40);
    fix_pointers(problem);
    problem.q = problem.q.to(at::kBFloat16);
    for (std::size_t i = 0; i < problem.num_span_tensors(); ++i) {
      problem.span_tensor(i) = problem.span_tensor(i).to(at::kBFloat16);
    }
    at::NoGradGuard no_grad;
    expect_close(attend(problem.q, problem.arenas, problem.visible, problem.scale),
                 attend_reference(problem.q, problem.arenas, problem.visible, problem.scale), 2e-2,
                 round);
    if (HasFailure()) return;
  }
}

/// Loss with random weights on both outputs, through the reference, in double.
double reference_loss(const Problem& problem, const at::Tensor& weight_out,
                      const at::Tensor& weight_lse) {
  const Attended result =
      attend_reference(problem.q, problem.arenas, problem.visible, problem.scale);
  const at::Tensor lse = result.lse.masked_fill(result.lse.isinf(), 0);
  return (result.out.to(at::kDouble) * weight_out).sum().item<double>() +
         (lse.to(at::kDouble) * weight_lse).sum().item<double>();
}

TEST(Attend, GradientsEqualFiniteDifferencesOfTheReference) {
  core::Rng rng(24);
  for (int round = 0; round < 60; ++round) {
    Problem problem = random_problem(rng, 30);
    fix_pointers(problem);
    const at::Tensor weight_out = at::randn(problem.q.sizes());
    const at::Tensor weight_lse = at::randn({problem.q.size(0), problem.q.size(1)});
    std::vector<at::Tensor> inputs{problem.q};
    for (std::size_t i = 0; i < problem.num_span_tensors(); ++i)
      inputs.push_back(problem.span_tensor(i));
    for (at::Tensor& input : inputs) input.requires_grad_(true);
    const Attended result = attend(problem.q, problem.arenas, problem.visible, problem.scale);
    const at::Tensor lse = result.lse.masked_fill(result.lse.isinf(), 0);
    ((result.out * weight_out).sum() + (lse * weight_lse).sum()).backward();

    at::NoGradGuard no_grad;
    for (std::size_t i = 0; i < inputs.size(); ++i) {
      const at::Tensor direction = at::randn(inputs[i].sizes());
      constexpr double kStep = 1e-2;
      inputs[i].add_(direction, kStep);
      const double above = reference_loss(problem, weight_out, weight_lse);
      inputs[i].sub_(direction, 2 * kStep);
      const double below = reference_loss(problem, weight_out, weight_lse);
      inputs[i].add_(direction, kStep);
      const double expected = (above - below) / (2 * kStep);
      const double actual = (inputs[i].grad() * direction).sum().item<double>();
      ASSERT_NEAR(actual, expected, 5e-3 * (1 + std::abs(expected)))
          << "round " << round << ", input " << i;
    }
  }
}

TEST(Attend, ForwardWithGradientGivesTheSameNumbers) {
  core::Rng rng(25);
  for (int round = 0; round < 50; ++round) {
    Problem problem = random_problem(rng);
    fix_pointers(problem);
    const Attended with = attend(problem.q.clone().requires_grad_(true), problem.arenas,
                                 problem.visible, problem.scale);
    const Attended without = attend(problem.q, problem.arenas, problem.visible, problem.scale);
    EXPECT_TRUE(with.out.equal(without.out));
  }
}

TEST(Attend, PartialResultsOverDisjointKeysMerge) {
  core::Rng rng(26);
  for (int round = 0; round < 50; ++round) {
    Problem problem = random_problem(rng);
    fix_pointers(problem);
    const Attended whole = attend(problem.q, problem.arenas, problem.visible, problem.scale);
    Attended merged;
    for (const RangeColumn& column : problem.visible.ranges->columns) {
      VisibleSet part = problem.visible;
      part.unfolded = part.tokens = at::Tensor();
      part.gists.clear();
      part.ranges =
          std::make_shared<RangeTable>(RangeTable{problem.visible.ranges->queries, {column}});
      const Attended result = attend(problem.q, problem.arenas, part, problem.scale);
      merged = merged.out.defined() ? merge(merged, result) : result;
    }
    if (!problem.visible.has_selection()) expect_close(whole, merged, 2e-5, round);
  }
}

/// The same problem in the memory of a device; keys and queries in `dtype`.
Problem on_device(const Problem& problem, at::Device device, at::ScalarType dtype) {
  Problem moved = problem;
  moved.q = problem.q.to(device, dtype);
  for (std::size_t i = 0; i < moved.num_span_tensors(); ++i) {
    moved.span_tensor(i) = moved.span_tensor(i).to(device, dtype);
  }
  for (at::Tensor* ids : {&moved.visible.unfolded, &moved.visible.tokens}) {
    if (ids->defined()) *ids = ids->to(device);
  }
  for (at::Tensor& ids : moved.visible.gists) {
    if (ids.defined()) ids = ids.to(device);
  }
  return moved;
}

TEST(AttendCuda, EqualsTheReference) {
  if (!at::hasCUDA()) GTEST_SKIP() << "no GPU here";
  core::Rng rng(28);
  for (int round = 0; round < 200; ++round) {
    Problem problem = random_problem(rng, round % 10 == 0 ? 900 : 40);
    fix_pointers(problem);
    const bool is_half = round % 2 == 0;
    Problem moved = on_device(problem, at::kCUDA, is_half ? at::kBFloat16 : at::kFloat);
    fix_pointers(moved);
    at::NoGradGuard no_grad;
    const Attended result = attend(moved.q, moved.arenas, moved.visible, moved.scale);
    const Problem rounded = on_device(moved, at::kCPU, at::kFloat);
    const Attended expected =
        attend_reference(rounded.q, rounded.arenas, problem.visible, rounded.scale);
    expect_close({result.out.cpu(), result.lse.cpu()}, expected, is_half ? 2e-2 : 1e-4, round);
    if (HasFailure()) return;
  }
}

TEST(AttendCuda, GradientsEqualTheCpu) {
  if (!at::hasCUDA()) GTEST_SKIP() << "no GPU here";
  core::Rng rng(29);
  for (int round = 0; round < 60; ++round) {
    Problem problem = random_problem(rng, round % 10 == 0 ? 400 : 30);
    fix_pointers(problem);
    Problem moved = on_device(problem, at::kCUDA, at::kFloat);
    fix_pointers(moved);
    const at::Tensor weight = at::randn(problem.q.sizes());
    for (Problem* each : {&problem, &moved}) {
      each->q.requires_grad_(true);
      for (std::size_t i = 0; i < each->num_span_tensors(); ++i) {
        each->span_tensor(i).requires_grad_(true);
      }
      const Attended result = attend(each->q, each->arenas, each->visible, each->scale);
      (result.out * weight.to(each->q.device())).sum().backward();
    }
    EXPECT_TRUE(at::allclose(moved.q.grad().cpu(), problem.q.grad(), 1e-3, 1e-4)) << round;
    for (std::size_t i = 0; i < problem.num_span_tensors(); ++i) {
      EXPECT_TRUE(at::allclose(moved.span_tensor(i).grad().cpu(), problem.span_tensor(i).grad(),
                               1e-3, 1e-4))
          << "round " << round << ", tensor " << i;
    }
    if (HasFailure()) return;
  }
}

TEST(NumVisible, CountsWhatTheReferenceAttends) {
  core::Rng rng(27);
  for (int round = 0; round < 200; ++round) {
    Problem problem = random_problem(rng);
    fix_pointers(problem);
    // With all keys zero every visible key has score 0, so exp(lse) is their number.
    for (std::size_t i = 0; i < problem.num_span_tensors(); ++i) problem.span_tensor(i).zero_();
    const std::int64_t num_kv_heads = problem.arenas.num_kv_heads();
    const Attended result =
        attend_reference(problem.q, problem.arenas, problem.visible, problem.scale);
    const at::Tensor counted = result.lse.exp()
                                   .round()
                                   .to(at::kLong)
                                   .view({problem.q.size(0), num_kv_heads, -1})
                                   .select(2, 0);
    ASSERT_TRUE(num_visible(problem.visible, num_kv_heads).equal(counted)) << "round " << round;
  }
}

}  // namespace
}  // namespace gsa::attention
