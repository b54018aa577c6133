#include "attention/routing_loss.h"

#include <ATen/Context.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/randn_like.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <gtest/gtest.h>

#include <cmath>
#include <memory>
#include <numeric>
#include <optional>
#include <stdexcept>
#include <utility>
#include <vector>

#include "attention/allocation_meter.h"
#include "attention/batch.h"
#include "attention/random_layout.h"

namespace gsa::attention {
namespace {

constexpr std::int64_t kNumKvHeads = 2, kNumHeads = 6, kHeadDim = 4, kLayer = 1;
constexpr double kScale = 0.7;

/// Training rows with random queries and keys, in double precision.
struct Problem {
  std::vector<std::unique_ptr<Layout>> layouts;
  std::vector<std::unique_ptr<Policy>> policies;
  Batch batch;
  at::Tensor q, k;
};

using Pieces = std::vector<std::vector<std::uint8_t>>;  // boundary bits

void add_sequence(core::Rng& rng, const char* spec, const Pieces& pieces, Problem& problem) {
  auto policy = make_policy(PolicySpec::parse(spec));
  auto layout = std::make_unique<Layout>(build(policy->spec().layout, pieces));
  BatchSequence sequence{layout.get(), policy.get(), nullptr, nullptr, {}};
  std::int64_t row = problem.batch.tokens.defined() ? problem.batch.num_rows() : 0;
  const auto add = [&](QuerySlice entries, bool is_suffix) {
    if (entries.count == 0) return;
    sequence.slices.push_back({entries, row, is_suffix});
    row += entries.count;
  };
  add({kRawLevel, 0, layout->num_raw(), {}}, false);
  for (int level = 0; level < layout->num_levels(); ++level)
    add({level, 0, layout->num_nodes(level), {}}, false);
  QuerySlice suffixes{kRawLevel, layout->num_raw(), 0, {}};
  for (std::uint32_t i = 0, count = 1 + rng.below(3); i < count; ++i) {
    const std::int64_t len = 1 + rng.below(4), begin = suffixes.begin + suffixes.count;
    suffixes.branch_begins.insert(suffixes.branch_begins.end(), len, begin);
    suffixes.count += len;
  }
  add(std::move(suffixes), true);
  problem.batch.tokens = at::zeros({row}, at::kLong);
  problem.batch.sequences.push_back(std::move(sequence));
  problem.layouts.push_back(std::move(layout));
  problem.policies.push_back(std::move(policy));
}

Pieces random_context(core::Rng& rng, const char* spec, int max_piece) {
  const LayoutOptions options = PolicySpec::parse(spec).layout;
  Pieces pieces;
  do {  // sinks would lie in every branch otherwise
    pieces = random_pieces(rng, 3, max_piece);
  } while (build(options, pieces).num_raw() < options.num_sinks);
  return pieces;
}

void draw_tensors(Problem& problem) {
  problem.q = at::randn({problem.batch.num_rows(), kNumHeads, kHeadDim}, at::kDouble);
  problem.k = at::randn({problem.batch.num_rows(), kNumKvHeads, kHeadDim}, at::kDouble);
}

Problem random_problem(core::Rng& rng, const char* spec, int max_piece = 30) {
  Problem problem;
  for (int i = 0; i < 2; ++i)
    add_sequence(rng, spec, random_context(rng, spec, max_piece), problem);
  draw_tensors(problem);
  return problem;
}

constexpr std::int64_t kOneRow = 1;  // the smallest block

at::Tensor routing_of(const Problem& problem, const at::Tensor& q, const at::Tensor& k,
                      std::int64_t block_bytes = RoutingLoss::kBlockBytes) {
  RoutingLoss loss(block_bytes);
  BatchAttention attention(problem.batch, kScale, &loss);
  attention(kLayer, q, k, k.detach());
  return loss.mean();
}

/// Divergence of one query head and row, averaged over levels, as the definition reads.
class PlainRow {
 public:
  PlainRow(const Problem& problem, const BatchSequence& sequence, std::int64_t row,
           std::int64_t head)
      : layout_(*sequence.layout),
        sequence_(sequence),
        q_(problem.q.const_data_ptr<double>()),
        k_(problem.k.const_data_ptr<double>()) {
    const BatchSlice& suffix = sequence.slices.back();
    q_ += ((suffix.row + row) * kNumHeads + head) * kHeadDim;
    kv_head_ = head / (kNumHeads / kNumKvHeads);
    ranges_ = visible_ranges(layout_, sequence.policy->suffix_rule(kLayer), suffix.entries);
    row_ = row;
  }

  /// Nothing if the query sees every raw token anyway.
  std::optional<double> divergence() const {
    std::vector<double> mass = chunk_mass();
    if (!normalise(mass)) return std::nullopt;
    double sum = divergence_at(0, mass);
    int num_levels = 1;
    for (int level = 1; level < layout_.num_levels() && layout_.num_nodes(level) > 0; ++level) {
      std::vector<double> above(layout_.num_nodes(level));
      for (std::size_t node = 0; node < above.size(); ++node) {
        const Range children = layout_.children(level, static_cast<std::int64_t>(node));
        for (std::int64_t i = children.begin; i < children.end; ++i) above[node] += mass[i];
      }
      mass = std::move(above);
      if (normalise(mass)) sum += divergence_at(level, mass);
      ++num_levels;
    }
    return sum / num_levels;
  }

 private:
  const double* key_of(std::int64_t row) const {
    return k_ + (row * kNumKvHeads + kv_head_) * kHeadDim;
  }

  double score(int level, std::int64_t idx) const {
    for (const BatchSlice& slice : sequence_.slices) {
      if (!slice.is_suffix && slice.entries.level == level)
        return kScale * std::inner_product(q_, q_ + kHeadDim, key_of(slice.row + idx), 0.0);
    }
    throw std::logic_error("no such slice");
  }

  /// Under `route=both` a chunk's mean score of raw keys is added to that of its gist.
  double node_score(int level, std::int64_t node) const {
    const double gist = score(level, node);
    if (level > 0 || sequence_.policy->spec().route != PolicySpec::Route::both) return gist;
    const Range tokens = layout_.children(0, node);
    double sum = 0;
    for (std::int64_t j = tokens.begin; j < tokens.end; ++j) sum += score(kRawLevel, j);
    return gist + sum / static_cast<double>(tokens.size());
  }

  bool sees(std::int64_t token) const {
    for (const RangeColumn& column : ranges_.columns) {
      if (column.level == kRawLevel && column.begin[row_] <= token && token < column.end[row_])
        return true;
    }
    return false;
  }

  /// Attention to every chunk's tokens that are not seen anyway.
  std::vector<double> chunk_mass() const {
    std::vector<double> mass(layout_.num_nodes(0));
    for (std::size_t chunk = 0; chunk < mass.size(); ++chunk) {
      const Range tokens = layout_.children(0, static_cast<std::int64_t>(chunk));
      for (std::int64_t j = tokens.begin; j < tokens.end; ++j)
        if (!sees(j)) mass[chunk] += std::exp(score(kRawLevel, j));
    }
    return mass;
  }

  static bool normalise(std::vector<double>& mass) {
    double sum = 0;
    for (const double m : mass) sum += m;
    if (sum == 0) return false;
    for (double& m : mass) m /= sum;
    return true;
  }

  double divergence_at(int level, const std::vector<double>& target) const {
    double total = 0, divergence = 0;
    std::vector<double> scores;
    for (std::size_t node = 0; node < target.size(); ++node)
      total += std::exp(scores.emplace_back(node_score(level, static_cast<std::int64_t>(node))));
    for (std::size_t node = 0; node < target.size(); ++node) {
      if (target[node] > 0)
        divergence += target[node] * (std::log(target[node]) - scores[node] + std::log(total));
    }
    return divergence;
  }

  const Layout& layout_;
  const BatchSequence& sequence_;
  const double* q_;
  const double* k_;
  RangeTable ranges_;
  std::int64_t kv_head_ = 0, row_ = 0;
};

/// Mean over heads and rows of all sequences; nothing without rows that choose.
std::optional<double> plain_mean(const Problem& problem) {
  double sum = 0;
  std::int64_t count = 0;
  for (const BatchSequence& sequence : problem.batch.sequences) {
    for (std::int64_t row = 0; row < sequence.slices.back().entries.count; ++row) {
      for (std::int64_t head = 0; head < kNumHeads; ++head) {
        const auto part = PlainRow(problem, sequence, row, head).divergence();
        if (!part) continue;
        sum += *part;
        ++count;
      }
    }
  }
  return count > 0 ? std::optional(sum / static_cast<double>(count)) : std::nullopt;
}

class Routing : public testing::TestWithParam<const char*> {};

TEST_P(Routing, EqualsALoopOverItsDefinition) {
  at::manual_seed(71);
  core::Rng rng(71);
  const at::NoGradGuard no_grad;
  int num_compared = 0;
  for (int round = 0; round < 25; ++round) {
    const Problem problem = random_problem(rng, GetParam());
    const auto expected = plain_mean(problem);
    const at::Tensor actual = routing_of(problem, problem.q, problem.k);
    ASSERT_EQ(actual.defined(), expected.has_value()) << "round " << round;
    if (!expected) continue;
    ++num_compared;
    ASSERT_NEAR(actual.item<double>(), *expected, 1e-10) << "round " << round;
    const at::Tensor by_row = routing_of(problem, problem.q, problem.k, kOneRow);
    ASSERT_NEAR(by_row.item<double>(), *expected, 1e-10) << "round " << round;
    // The sums of f32 in another order; products of bf16 besides.
    const at::Tensor f32 = routing_of(problem, problem.q.to(at::kFloat), problem.k.to(at::kFloat));
    ASSERT_NEAR(f32.item<double>(), *expected, 1e-4) << "round " << round;
    const at::Tensor bf16 =
        routing_of(problem, problem.q.to(at::kBFloat16), problem.k.to(at::kBFloat16));
    ASSERT_EQ(bf16.scalar_type(), at::kFloat);
    ASSERT_NEAR(bf16.item<double>(), *expected, 0.03 * (1 + *expected)) << "round " << round;
  }
  EXPECT_GT(num_compared, 10);
}

TEST_P(Routing, MovesTheKeysOfGistsAlone) {
  at::manual_seed(72);
  core::Rng rng(72);
  for (int round = 0; round < 6; ++round) {
    Problem problem = random_problem(rng, GetParam(), 60);
    problem.q.requires_grad_(true);
    problem.k.requires_grad_(true);
    const at::Tensor loss = routing_of(problem, problem.q, problem.k,
                                       round % 2 == 0 ? RoutingLoss::kBlockBytes : kOneRow);
    if (!loss.defined()) continue;
    (loss * 3).backward();
    EXPECT_FALSE(problem.q.grad().defined());
    const at::Tensor grad = problem.k.grad();
    const at::NoGradGuard no_grad;
    for (const BatchSequence& sequence : problem.batch.sequences) {
      for (const BatchSlice& slice : sequence.slices) {
        const at::Tensor part = grad.narrow(0, slice.row, slice.entries.count);
        if (slice.entries.level == kRawLevel) {
          EXPECT_TRUE(at::equal(part, at::zeros_like(part)));
          continue;
        }
        const at::Tensor keys = problem.k.narrow(0, slice.row, slice.entries.count);
        const at::Tensor before = keys.clone(), direction = at::randn_like(keys);
        constexpr double kStep = 1e-5;
        keys.copy_(before + kStep * direction);
        const double above = routing_of(problem, problem.q, problem.k).item<double>();
        keys.copy_(before - kStep * direction);
        const double below = routing_of(problem, problem.q, problem.k).item<double>();
        keys.copy_(before);
        EXPECT_NEAR((part * direction).sum().item<double>(), 3 * (above - below) / (2 * kStep),
                    1e-7)
            << "round " << round << ", level " << slice.entries.level;
      }
    }
  }
}

TEST_P(Routing, IsTheSameInEveryTypeAndOnTheGpu) {
  at::manual_seed(74);
  core::Rng rng(74);
  std::vector<at::Device> devices = {at::kCPU};
  if (at::hasCUDA()) devices.emplace_back(at::kCUDA);
  for (int round = 0; round < 6; ++round) {
    const Problem problem = random_problem(rng, GetParam(), 60);
    const auto run = [&](at::Device device, at::ScalarType dtype) {
      const at::Tensor k = problem.k.to(device, dtype, false, true).requires_grad_(true);
      const at::Tensor loss = routing_of(problem, problem.q.to(device, dtype), k);
      if (loss.defined()) loss.backward();
      return std::pair(loss, k.grad());
    };
    const auto [expected, grad] = run(at::kCPU, at::kDouble);
    if (!expected.defined()) continue;
    for (const at::Device device : devices) {
      for (const auto& [dtype, tolerance] : {std::pair(at::kFloat, 1e-4), {at::kBFloat16, 0.05}}) {
        const auto [loss, same_grad] = run(device, dtype);
        const auto [again, grad_again] = run(device, dtype);
        EXPECT_NEAR(loss.item<double>(), expected.item<double>(),
                    tolerance * (1 + expected.item<double>()));
        EXPECT_LT((same_grad.cpu().to(at::kDouble) - grad).norm().item<double>(),
                  tolerance * (1e-3 + grad.norm().item<double>()));
        EXPECT_TRUE(at::equal(loss, again) && at::equal(same_grad, grad_again)) << "runs differ";
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Layouts, Routing,
                         testing::Values("gsa@4", "gsa@2-2:ratio=2:mode=group", "gsa@4-4",
                                         "gsa@3-2-2:sinks=1:local=0", "gsa@4:gists=all",
                                         "gsa@4-2:read=full:gists=hidden", "gsa@8:local=3",
                                         "gsa@3:route=both", "gsa@3-2:route=both"));

TEST(Routing, NodesAboveChunksThatAreSeenAnywayStayWhereTheyAre) {
  at::manual_seed(75);
  core::Rng rng(75);
  Problem problem;
  // One chunk without a parent is left to choose; those under the two parents are local.
  add_sequence(rng, "gsa@2-2:sinks=0:local=4:grow=on", {{1, 1}, {1, 1, 1, 1, 1, 1, 1, 1}}, problem);
  draw_tensors(problem);
  problem.k.requires_grad_(true);
  const at::Tensor loss = routing_of(problem, problem.q, problem.k);
  loss.backward();
  EXPECT_NEAR(loss.item<double>(), plain_mean(problem).value(), 1e-10);
  const BatchSlice &chunks = problem.batch.sequences[0].slices[1],
                   &parents = problem.batch.sequences[0].slices[2];
  ASSERT_EQ(parents.entries.count, 2);
  EXPECT_GT(problem.k.grad().narrow(0, chunks.row, chunks.entries.count).norm().item<double>(), 0);
  EXPECT_EQ(problem.k.grad().narrow(0, parents.row, 2).norm().item<double>(), 0);
}

TEST(Routing, TakesLittleMemory) {
  constexpr std::int64_t kBlock = 400 << 10, kSmallParts = 400 << 10;
  core::Rng rng(76);
  for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {
    Problem problem;
    std::vector<std::uint8_t> text(3000, 1);
    add_sequence(rng, "gsa@4-4", {text}, problem);
    const BatchSequence& sequence = problem.batch.sequences[0];
    const BatchSlice& suffixes = sequence.slices.back();
    const at::Tensor q =
        at::randn({problem.batch.num_rows(), kNumHeads, kHeadDim}, at::kFloat).to(dtype);
    const at::Tensor k = at::randn({problem.batch.num_rows(), kNumKvHeads, kHeadDim}, at::kFloat)
                             .to(dtype)
                             .requires_grad_(true);
    const RoutingRows rows{
        &sequence, &suffixes,
        std::make_shared<const RangeTable>(visible_ranges(
            *sequence.layout, sequence.policy->suffix_rule(kLayer), suffixes.entries))};
    RoutingLoss loss(kBlock);
    loss.add(q, k, {&rows, 1}, kScale);  // makes what all layers share
    const AllocationMeter meter;
    loss.add(q, k, {&rows, 1}, kScale);
    ASSERT_GT(suffixes.entries.count, 4);  // more than a block
    EXPECT_LT(meter.peak_bytes(), kBlock + kSmallParts);
    const std::int64_t num_gists = sequence.layout->num_nodes(0) + sequence.layout->num_nodes(1);
    EXPECT_LT(meter.live_bytes(), num_gists * kNumKvHeads * kHeadDim * 4 + 2000);
  }
}

TEST(Routing, LayersThatDoNotSelectHaveNone) {
  at::manual_seed(73);
  core::Rng rng(73);
  const at::NoGradGuard no_grad;
  for (const auto& [spec, layer] : {std::pair("gsa@4", 0), std::pair("full", 1)}) {
    const Problem problem = random_problem(rng, spec, 60);
    RoutingLoss loss;
    BatchAttention attention(problem.batch, kScale, &loss);
    attention(layer, problem.q, problem.k, problem.k);
    EXPECT_FALSE(loss.mean().defined()) << spec;
  }
}

}  // namespace
}  // namespace gsa::attention
