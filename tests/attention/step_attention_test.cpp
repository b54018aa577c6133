#include "attention/step_attention.h"

#include <ATen/Parallel.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include <cmath>
#include <list>

#include "ATen/CPUGeneratorImpl.h"
#include "attention/batch.h"
#include "attention/random_layout.h"

namespace gsa::attention {
namespace {

constexpr std::int64_t kNumLayers = 3;

/// Sizes and dtype of a case.
struct Shape {
  std::int64_t num_kv_heads, group, head_dim;
  at::ScalarType dtype;
  std::int64_t num_heads() const { return num_kv_heads * group; }
  double scale() const { return 1 / std::sqrt(static_cast<double>(head_dim)); }
};

/// Of outputs of size 1; half precision rounds what BatchAttention and the kernels multiply with.
double tolerance(at::ScalarType dtype) {
  return dtype == at::kFloat ? 1e-4 : dtype == at::kHalf ? 4e-3 : 3e-2;
}

/// One conversation, once for each of the two ways to attend.
class Twins {
 public:
  Twins(const PolicySpec& spec, const Shape& shape,
        const std::vector<std::vector<std::uint8_t>>& pieces, core::Rng& rng)
      : shape_(shape),
        policy_(make_policy(spec)),
        other_policy_(make_policy(spec)),
        layout_(build(spec.layout, pieces)),
        store_(KvShape{kNumLayers, shape.num_kv_heads, shape.head_dim,
                       policy_->uses_gists() ? layout_.num_levels() : 0, shape.dtype}),
        other_(fill_and_fork(rng)),
        step_(StepAttention::make(*policy_, store_, layout_, shape.num_heads(), shape.scale())) {}

  /// Runs one row both ways and compares.
  void step() {
    ASSERT_NE(step_, nullptr);
    const std::int64_t raw_idx = store_.len(kRawLevel);
    const at::Tensor places = at::full({1}, raw_idx, at::kLong);
    Batch batch{at::zeros({1}, at::kLong), places, {}};
    batch.sequences.push_back({&layout_,
                               other_policy_.get(),
                               &other_,
                               &other_meter_,
                               {{{kRawLevel, raw_idx, 1}, 0, true}}});
    BatchAttention attention(batch, shape_.scale());
    step_->begin(raw_idx, &meter_);
    for (std::int64_t layer = 0; layer < kNumLayers; ++layer) {
      const auto random = [&](std::int64_t num_heads) {
        return at::randn({1, num_heads, shape_.head_dim}).to(shape_.dtype);
      };
      const at::Tensor q = random(shape_.num_heads()), k = random(shape_.num_kv_heads),
                       v = random(shape_.num_kv_heads);
      const at::Tensor expected = attention(layer, q, k, v).to(at::kFloat);
      const at::Tensor out = at::empty({1, shape_.num_heads(), shape_.head_dim}, at::kFloat);
      const at::Tensor fq = q.to(at::kFloat), fk = k.to(at::kFloat), fv = v.to(at::kFloat);
      (*step_)(layer, fq.data_ptr<float>(), fk.data_ptr<float>(), fv.data_ptr<float>(),
               out.data_ptr<float>());
      ASSERT_LT(out.sub(expected).abs().max().item<double>(), tolerance(shape_.dtype))
          << "layer " << layer << ", row " << raw_idx;
      ASSERT_EQ(meter_.keys_read(), other_meter_.keys_read()) << "layer " << layer;
    }
    ASSERT_EQ(meter_.fraction(), other_meter_.fraction());
    ASSERT_EQ(meter_.num_query_layers(), other_meter_.num_query_layers());
    ASSERT_EQ(store_.len(kRawLevel), raw_idx + 1);
  }

  /// Runs several rows in a batch, with the step and without it, and compares.
  void run_batch(std::int64_t num_rows) {
    ASSERT_NE(step_, nullptr);
    const std::int64_t raw_idx = store_.len(kRawLevel);
    const auto batch_of = [&](Policy& policy, KvStore& store, ReadMeter& meter,
                              StepAttention* steps) {
      Batch batch{
          at::zeros({num_rows}, at::kLong), at::arange(raw_idx, raw_idx + num_rows, at::kLong), {}};
      batch.sequences.push_back(
          {&layout_, &policy, &store, &meter, {{{kRawLevel, raw_idx, num_rows}, 0, true}}, steps});
      return batch;
    };
    const Batch batch = batch_of(*policy_, store_, meter_, step_.get());
    const Batch other = batch_of(*other_policy_, other_, other_meter_, nullptr);
    BatchAttention attention(batch, shape_.scale()), composite(other, shape_.scale());
    for (std::int64_t layer = 0; layer < kNumLayers; ++layer) {
      const auto random = [&](std::int64_t num_heads) {
        return at::randn({num_rows, num_heads, shape_.head_dim}).to(shape_.dtype);
      };
      const at::Tensor q = random(shape_.num_heads()), k = random(shape_.num_kv_heads),
                       v = random(shape_.num_kv_heads);
      const at::Tensor out = attention(layer, q, k, v), expected = composite(layer, q, k, v);
      ASSERT_EQ(out.scalar_type(), expected.scalar_type());
      ASSERT_LT(out.sub(expected).abs().max().item<double>(), tolerance(shape_.dtype))
          << "layer " << layer << ", " << num_rows << " rows";
      ASSERT_EQ(meter_.keys_read(), other_meter_.keys_read()) << "layer " << layer;
    }
    ASSERT_EQ(meter_.fraction(), other_meter_.fraction());
  }

  /// Makes the suffix context, with gists.
  void fold(core::Rng& rng) {
    if (layout_.num_levels() == 0) return;
    std::vector<std::uint8_t> starts(store_.len(kRawLevel) - layout_.num_raw());
    for (auto& bit : starts) bit = rng.below(3) == 0;
    layout_.append(starts);
    if (rng.below(2) == 0) layout_.end_piece();
    for (int level = 0; level < store_.shape().num_levels; ++level)
      append(level, layout_.num_nodes(level) - store_.len(level), &other_);
  }

  /// Drops what was said since the context.
  void forget() {
    store_.truncate(kRawLevel, layout_.num_raw());
    other_.truncate(kRawLevel, layout_.num_raw());
  }

  /// Shares what is stored with a third store, which goes on by itself.
  void fork() { forks_.push_back(store_.fork()); }

 private:
  void append(int level, std::int64_t count, KvStore* also) {
    for (std::int64_t layer = 0; layer < kNumLayers && count > 0; ++layer) {
      const auto random = [&] {
        return at::randn({count, shape_.num_kv_heads, shape_.head_dim}).to(shape_.dtype);
      };
      const at::Tensor k = random(), v = random();
      store_.append(layer, level, k, v);
      if (also != nullptr) also->append(layer, level, k, v);
    }
  }

  /// Fills the store in parts, with forks between them: every part that follows one is a span.
  KvStore fill_and_fork(core::Rng& rng) {
    for (int level = kRawLevel; level < store_.shape().num_levels; ++level) {
      std::int64_t rest = level == kRawLevel ? layout_.num_raw() : layout_.num_nodes(level);
      while (rest > 0) {
        const std::int64_t count = 1 + rng.below(static_cast<std::uint32_t>(rest));
        append(level, count, nullptr);
        rest -= count;
        if (rng.below(2) == 0) forks_.push_back(store_.fork());
      }
    }
    return store_.fork();
  }

  Shape shape_;
  std::unique_ptr<Policy> policy_, other_policy_;
  Layout layout_;
  KvStore store_;
  std::list<KvStore> forks_;
  KvStore other_;
  ReadMeter meter_, other_meter_;
  std::unique_ptr<StepAttention> step_;
};

PolicySpec random_search(core::Rng& rng) {
  PolicySpec spec = PolicySpec::parse("gsa@4");
  spec.layout = random_options(rng, 3);
  switch (rng.below(3)) {
    case 0:
      spec.budget.ratio = rng.below(3) == 0 ? 0 : 1 + rng.below(6);
      break;
    case 1:
      spec.budget.kind = Budget::Kind::tokens;
      spec.budget.tokens = 1 + rng.below(40);
      break;
    default:
      spec.budget.kind = Budget::Kind::top_p;
      spec.budget.top_p = 0.05 + 0.9 * rng.uniform();
  }
  if (rng.below(2) == 0) spec.mode = PolicySpec::Mode::group;
  if (rng.below(2) == 0) spec.unfold = static_cast<PolicySpec::Unfold>(rng.below(3));
  if (spec.budget.kind != Budget::Kind::top_p && rng.below(3) == 0)
    spec.layer_shares = {1, 3 * rng.uniform()};
  if (rng.below(4) == 0) {
    spec.name = "meanpool";
    spec.route = PolicySpec::Route::mean;
    spec.layout = random_options(rng, 1);
    spec.read = PolicySpec::Read::full;
    return spec;
  }
  if (rng.below(2) == 0) spec.route = static_cast<PolicySpec::Route>(rng.below(3));
  if (rng.below(3) == 0) spec.gists = PolicySpec::Gists::all;
  if (rng.below(4) == 0) spec.gists = PolicySpec::Gists::hidden;
  if (rng.below(4) == 0) spec.read = PolicySpec::Read::full;
  return spec;
}

PolicySpec random_spec(core::Rng& rng) {
  switch (rng.below(8)) {
    case 0:
      return PolicySpec::parse("full");
    case 1:
      return PolicySpec::parse(rng.below(2) == 0 ? "streaming:tokens=9" : "streaming:tokens=200");
    case 2: {
      PolicySpec spec = PolicySpec::parse("gist-only@4");
      spec.layout = random_options(rng, 3);
      return spec;
    }
    default:
      return random_search(rng);
  }
}

Shape random_shape(core::Rng& rng) {
  constexpr std::int64_t kGroups[] = {1, 3, 4, 7}, kDims[] = {8, 24, 64, 80};
  constexpr at::ScalarType kTypes[] = {at::kFloat, at::kHalf, at::kBFloat16};
  return {1 + rng.below(3), kGroups[rng.below(4)], kDims[rng.below(4)], kTypes[rng.below(3)]};
}

TEST(StepAttention, GivesWhatBatchAttentionGives) {
  at::set_num_threads(2);
  at::manual_seed(1);
  core::Rng rng(71);
  for (int round = 0; round < 500; ++round) {
    const PolicySpec spec = random_spec(rng);
    const Shape shape = random_shape(rng);
    Twins twins(spec, shape, random_pieces(rng, 3, rng.below(4) == 0 ? 400 : 60), rng);
    const int num_steps = 2 + static_cast<int>(rng.below(8));
    for (int i = 0; i < num_steps; ++i) {
      if (rng.below(5) == 0) twins.fold(rng);
      if (rng.below(8) == 0) twins.forget();
      if (rng.below(8) == 0) twins.fork();
      twins.step();
      if (HasFatalFailure()) {
        FAIL() << "round " << round << ", step " << i << ", " << spec.to_string() << ", "
               << toString(shape.dtype) << ", heads " << shape.num_kv_heads << " x " << shape.group
               << ", head size " << shape.head_dim;
      }
    }
  }
}

// So many gists that scores, search and attention are cut into tasks.
TEST(StepAttention, IsTheSameOnAThreadOrThree) {
  at::manual_seed(2);
  core::Rng rng(72);
  for (const int num_threads : {1, 3}) {
    at::set_num_threads(num_threads);
    for (const char* spec : {"full", "gsa@4:ratio=8", "gsa@4-4:tokens=512", "gsa@4-2:mode=group",
                             "meanpool@4:ratio=8"}) {
      Twins twins(PolicySpec::parse(spec), {3, 3, 64, at::kFloat},
                  {std::vector<std::uint8_t>(6000, 1)}, rng);
      for (int i = 0; i < 3; ++i) {
        twins.step();
        if (HasFatalFailure()) FAIL() << spec << ", " << num_threads << " threads";
      }
    }
  }
  at::set_num_threads(2);
}

TEST(StepAttention, LeavesOthersToBatchAttention) {
  const Layout layout(PolicySpec::parse("gsa@4").layout);
  const auto is_served = [&](const char* spec, std::int64_t head_dim, at::ScalarType dtype,
                             int num_levels = 1) {
    const auto policy = make_policy(PolicySpec::parse(spec));
    KvStore store({kNumLayers, 2, head_dim, num_levels, dtype});
    return StepAttention::make(*policy, store, layout, 4, 0.1) != nullptr;
  };
  EXPECT_TRUE(is_served("gsa@4", 64, at::kFloat));
  EXPECT_TRUE(is_served("full", 64, at::kBFloat16));
  EXPECT_TRUE(is_served("meanpool@4", 64, at::kFloat, 0));
  EXPECT_TRUE(is_served("gsa@4:route=both:unfold=next", 64, at::kFloat));
  EXPECT_FALSE(is_served("gsa@4:route=oracle", 64, at::kFloat));
  EXPECT_FALSE(is_served("quest@4", 64, at::kFloat));
  EXPECT_FALSE(is_served("snapkv:tokens=8", 64, at::kFloat));
  EXPECT_FALSE(is_served("gsa@4", 20, at::kFloat));
  EXPECT_FALSE(is_served("gsa@4", 64, at::kDouble));
  EXPECT_FALSE(is_served("gsa@4", 64, at::kFloat, 0)) << "the store has no gists";
}

TEST(StepAttention, RefusesARowThatDoesNotFollow) {
  const auto policy = make_policy(PolicySpec::parse("full"));
  const Layout layout(policy->spec().layout);
  KvStore store({kNumLayers, 2, 8, 0, at::kFloat});
  const auto step = StepAttention::make(*policy, store, layout, 4, 0.1);
  const std::vector<float> row(4 * 8);
  std::vector<float> out(4 * 8);
  step->begin(1, nullptr);
  EXPECT_ANY_THROW(step->attend(0, row.data(), out.data())) << "it is not stored";
  EXPECT_ANY_THROW((*step)(0, row.data(), row.data(), row.data(), out.data())) << "it is entry 0";
}

// The rows of a question, in one batch with and without the kernels for single rows.
TEST(StepAttention, ServesSeveralRowsOfABatch) {
  at::manual_seed(4);
  core::Rng rng(73);
  for (const char* spec :
       {"gsa@4", "gsa@4-2:mode=group", "gsa@3:tokens=9", "gsa@4:gists=all", "meanpool@4"}) {
    const PolicySpec parsed = PolicySpec::parse(spec);
    for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {
      Twins twins(parsed, {2, 3, 32, dtype}, {std::vector<std::uint8_t>(150, 1)}, rng);
      for (const std::int64_t num_rows : {7, 1, 20}) {
        twins.run_batch(num_rows);
        if (HasFatalFailure()) FAIL() << spec << ", " << toString(dtype);
      }
    }
  }
}

}  // namespace
}  // namespace gsa::attention
