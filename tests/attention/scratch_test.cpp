#include <ATen/ops/ones_like.h>
#include <ATen/ops/randn.h>
#include <gtest/gtest.h>

#include <cmath>

#include "attention/allocation_meter.h"
#include "attention/attend.h"
#include "attention/attention_mass.h"
#include "attention/policy.h"
#include "core/rng.h"

// Memory of attention beyond its inputs and outputs, for the shapes of a small model.
namespace gsa::attention {
namespace {

constexpr std::int64_t kNumHeads = 9, kNumKvHeads = 3, kHeadDim = 64;
constexpr std::int64_t kMaxScratchBytes = 256 << 20;
constexpr std::int64_t kSuffixLen = 64;

struct Case {
  StaticRule::Kind kind;
  at::ScalarType dtype;
};

/// One sequence: keys of `num_raw` context tokens, their gists and a suffix.
class Scratch : public testing::TestWithParam<Case> {
 protected:
  void build(std::int64_t num_raw) {
    LayoutOptions options;
    options.chunk_sizes = ChunkSizes::parse("16");
    layout_ = Layout(options);
    core::Rng rng(1);
    std::vector<std::uint8_t> bits(num_raw);
    for (auto& bit : bits) bit = rng.below(3) == 0;
    layout_.append(bits);
    layout_.end_piece();
    arenas_.raw = arena(num_raw + kSuffixLen);
    arenas_.gists = {arena(layout_.num_nodes(0))};
  }

  VisibleSet visible(const QuerySlice& slice) const {
    StaticRule rule;
    rule.kind = GetParam().kind;
    VisibleSet result;
    result.layout = &layout_;
    result.ranges = std::make_shared<RangeTable>(visible_ranges(layout_, rule, slice));
    return result;
  }

  at::Tensor queries(std::int64_t count) const {
    return at::randn({count, kNumHeads, kHeadDim}).to(GetParam().dtype);
  }

  Layout layout_{LayoutOptions{}};
  KvArenas arenas_;
  const double scale_ = 1 / std::sqrt(static_cast<double>(kHeadDim));

 private:
  KvArena arena(std::int64_t len) const {
    const auto rows = [&] { return at::randn({kNumKvHeads, len, kHeadDim}).to(GetParam().dtype); };
    return {{{rows(), rows(), 0}}};
  }
};

std::int64_t bytes_of(const Attended& result) {
  return static_cast<std::int64_t>(result.out.nbytes() + result.lse.nbytes());
}

TEST_P(Scratch, ForwardOfALongTextStaysBounded) {
  build(8192);
  std::vector<QuerySlice> slices{{kRawLevel, 0, layout_.num_raw()}};
  if (GetParam().kind == StaticRule::Kind::gist) slices.push_back({0, 0, layout_.num_nodes(0)});
  for (const QuerySlice& slice : slices) {
    const at::Tensor q = queries(slice.count);
    const VisibleSet keys = visible(slice);
    const AllocationMeter meter;
    const Attended result = attend(q, arenas_, keys, scale_);
    ASSERT_GE(meter.live_bytes(), bytes_of(result));  // the meter does see this thread's tensors
    EXPECT_LT(meter.peak_bytes() - bytes_of(result), kMaxScratchBytes);
    RecordProperty("scratch_mb_level_" + std::to_string(slice.level),
                   std::to_string((meter.peak_bytes() - bytes_of(result)) >> 20));
  }
}

TEST_P(Scratch, BackwardStaysBounded) {
  build(3072);
  at::Tensor q = queries(layout_.num_raw());
  std::vector<at::Tensor> inputs{q};
  for (KvArena* arena : {&arenas_.raw, &arenas_.gists[0]}) {
    inputs.push_back(arena->spans[0].k);
    inputs.push_back(arena->spans[0].v);
  }
  std::int64_t grad_bytes = 0;
  for (at::Tensor& input : inputs) {
    input.requires_grad_(true);
    grad_bytes += static_cast<std::int64_t>(input.nbytes());
  }
  const VisibleSet keys = visible({kRawLevel, 0, layout_.num_raw()});
  const AllocationMeter meter;
  const Attended result = attend(q, arenas_, keys, scale_);
  result.out.backward(at::ones_like(result.out));
  ASSERT_TRUE(q.grad().defined());
  EXPECT_LT(meter.peak_bytes() - bytes_of(result) - grad_bytes, kMaxScratchBytes);
  RecordProperty("scratch_mb",
                 std::to_string((meter.peak_bytes() - bytes_of(result) - grad_bytes) >> 20));
}

/// Queries that select; their rule is the policy's.
class SelectionScratch : public Scratch {};

TEST_P(SelectionScratch, UnfoldsInBoundedBlocks) {
  build(8192);
  const auto policy = make_policy(PolicySpec::parse("gsa@16:tokens=2048"));
  const at::Tensor q = queries(kSuffixLen);
  const AllocationMeter meter;
  VisibleSet keys;
  keys.layout = &layout_;
  keys.ranges = std::make_shared<RangeTable>(
      visible_ranges(layout_, policy->suffix_rule(1), {kRawLevel, layout_.num_raw(), kSuffixLen}));
  policy->select({1, q, &arenas_, &layout_, keys.ranges, scale_}, keys);
  const Attended result = attend(q, arenas_, keys, scale_);
  EXPECT_LT(meter.peak_bytes() - bytes_of(result), kMaxScratchBytes);
  RecordProperty("scratch_mb", std::to_string((meter.peak_bytes() - bytes_of(result)) >> 20));
}

/// Policies that look at the attention of every key.
class TokenScratch : public Scratch {};

TEST_P(TokenScratch, ReadsAndChoosesInBoundedBlocks) {
  build(8192);
  const std::int64_t num_raw = layout_.num_raw();
  for (const char* text : {"oracle:tokens=1024", "snapkv:tokens=1024", "h2o:tokens=1024"}) {
    const auto policy = make_policy(PolicySpec::parse(text));
    const at::Tensor context = queries(num_raw), q = queries(kSuffixLen);
    const AllocationMeter meter;
    std::int64_t result_bytes = 0;
    if (policy->observes_context()) {
      const VisibleSet keys = visible({kRawLevel, 0, num_raw});
      const Attended result = attend(context, arenas_, keys, scale_);
      policy->observe(0, attention_mass(context, result.lse, arenas_, *keys.ranges, scale_));
      result_bytes = bytes_of(result);
    }
    VisibleSet keys;
    keys.layout = &layout_;
    keys.ranges = std::make_shared<RangeTable>(
        visible_ranges(layout_, policy->suffix_rule(0), {kRawLevel, num_raw, kSuffixLen}));
    policy->select({0, q, &arenas_, &layout_, keys.ranges, scale_}, keys);
    const Attended result = attend(q, arenas_, keys, scale_);
    EXPECT_LT(meter.peak_bytes() - bytes_of(result) - result_bytes, kMaxScratchBytes) << text;
    RecordProperty(std::string("scratch_mb_") + policy->spec().name,
                   std::to_string((meter.peak_bytes() - bytes_of(result)) >> 20));
  }
}

std::string name_of(const testing::TestParamInfo<Case>& info) {
  const char* const kinds[] = {"full", "gist", "local", "window"};
  return std::string(kinds[static_cast<int>(info.param.kind)]) +
         (info.param.dtype == at::kFloat ? "_f32" : "_bf16");
}

INSTANTIATE_TEST_SUITE_P(Rules, Scratch,
                         testing::Values(Case{StaticRule::Kind::full, at::kFloat},
                                         Case{StaticRule::Kind::full, at::kBFloat16},
                                         Case{StaticRule::Kind::gist, at::kFloat},
                                         Case{StaticRule::Kind::gist, at::kBFloat16}),
                         name_of);

INSTANTIATE_TEST_SUITE_P(Selections, SelectionScratch,
                         testing::Values(Case{StaticRule::Kind::local, at::kFloat},
                                         Case{StaticRule::Kind::local, at::kBFloat16}),
                         name_of);

INSTANTIATE_TEST_SUITE_P(Tokens, TokenScratch,
                         testing::Values(Case{StaticRule::Kind::full, at::kFloat},
                                         Case{StaticRule::Kind::full, at::kBFloat16}),
                         name_of);

}  // namespace
}  // namespace gsa::attention
