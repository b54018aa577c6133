#include "attention/chunk_keys.h"

#include <ATen/Functions.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "attention/key_pieces.h"
#include "core/rng.h"

namespace gsa::attention {
namespace {

constexpr std::int64_t kNumHeads = 2, kHeadDim = 8;

class Context {
 public:
  Context(at::ScalarType dtype, core::Rng& rng)
      : rng_(rng), layout_({ChunkSizes{{4}}}), store_({1, kNumHeads, kHeadDim, 1, dtype}) {}

  void append(std::int64_t num_tokens) {
    std::vector<std::uint8_t> starts(num_tokens);
    for (auto& bit : starts) bit = rng_.below(3) == 0;
    layout_.append(starts);
    store(kRawLevel, num_tokens);
    store(0, layout_.num_nodes(0) - store_.len(0));
  }

  /// By the definition, key by key.
  at::Tensor expected(bool adds_gists) const {
    const KvArenas arenas = store_.arenas(0);
    std::vector<at::Tensor> keys;
    for (std::int64_t chunk = 0; chunk < layout_.num_nodes(0); ++chunk) {
      const Range tokens = layout_.children(0, chunk);
      at::Tensor sum = at::zeros({kNumHeads, kHeadDim}, at::kDouble);
      for (std::int64_t token = tokens.begin; token < tokens.end; ++token)
        sum += key_at(arenas.raw, token);
      sum /= static_cast<double>(tokens.size());
      keys.push_back(adds_gists ? sum.add(key_at(arenas.gists[0], chunk)) : sum);
    }
    return at::stack(keys, 1);
  }

  const Layout& layout() const { return layout_; }
  KvArenas arenas() const { return store_.arenas(0); }
  void fork() { forks_.push_back(store_.fork()); }

 private:
  void store(int level, std::int64_t count) {
    if (count <= 0) return;
    const auto random = [&] {
      return at::randn({count, kNumHeads, kHeadDim}).to(store_.shape().options);
    };
    store_.append(0, level, random(), random());
  }

  static at::Tensor key_at(const KvArena& arena, std::int64_t idx) {
    const KvSpan span = spans_in(arena, {idx, idx + 1})[0];
    return span.k.select(1, 0).to(at::kDouble);
  }

  core::Rng& rng_;
  Layout layout_;
  KvStore store_;
  std::vector<KvStore> forks_;
};

at::Tensor all_of(const ChunkKeys& keys) {
  std::vector<at::Tensor> parts;
  for (const KvSpan& span : keys.of_layer(0).spans) parts.push_back(span.k);
  return at::cat(parts, 1);
}

class ChunkKeysTest : public testing::TestWithParam<at::ScalarType> {
 protected:
  void expect_equal(const ChunkKeys& keys, const Context& context, bool adds_gists) {
    ASSERT_EQ(keys.len(0), context.layout().num_nodes(0));
    const at::Tensor actual = all_of(keys);
    ASSERT_EQ(actual.scalar_type(), GetParam());
    // Sums of means and gists stay below 8.
    const double tolerance = GetParam() == at::kFloat ? 1e-6 : 8.0 / 256;
    ASSERT_LT(actual.to(at::kDouble).sub(context.expected(adds_gists)).abs().max().item<double>(),
              tolerance);
    EXPECT_EQ(keys.bytes(), actual.nbytes());
  }
};

TEST_P(ChunkKeysTest, AreMeansOfRawKeysOfAGrowingContext) {
  at::manual_seed(1);
  core::Rng rng(1);
  for (int round = 0; round < 20; ++round) {
    const bool adds_gists = rng.below(2) == 0;
    Context context(GetParam(), rng);
    ChunkKeys keys(adds_gists);
    for (int step = 0; step < 4; ++step) {
      context.append(20 + rng.below(60));
      if (rng.below(2) == 0) context.fork();
      keys.update(0, context.arenas(), context.layout());
      expect_equal(keys, context, adds_gists);
      if (HasFatalFailure()) return;
      EXPECT_EQ(keys.of_layer(0).spans.size(), 1U);
    }
  }
}

TEST_P(ChunkKeysTest, AreSharedWithThoseThatFollow) {
  at::manual_seed(2);
  core::Rng rng(2);
  Context context(GetParam(), rng);
  context.append(70);
  ChunkKeys reader(true);
  reader.update(0, context.arenas(), context.layout());
  ChunkKeys follower(true);
  follower.follow(reader);
  const void* const first = reader.of_layer(0).spans[0].k.const_data_ptr();
  for (int step = 0; step < 3; ++step) {
    context.append(40);
    follower.update(0, context.arenas(), context.layout());
    expect_equal(follower, context, true);
    EXPECT_EQ(follower.of_layer(0).spans.size(), 2U);
    EXPECT_EQ(follower.of_layer(0).spans[0].k.const_data_ptr(), first);
  }
  follower.clear();
  EXPECT_EQ(follower.len(0), 0);
  follower.update(0, context.arenas(), context.layout());
  expect_equal(follower, context, true);
}

TEST(ChunkKeysOfNothing, AreNone) {
  core::Rng rng(3);
  Context context(at::kFloat, rng);
  ChunkKeys keys(false);
  keys.update(0, context.arenas(), context.layout());
  EXPECT_EQ(keys.len(0), 0);
  EXPECT_EQ(keys.bytes(), 0);
  keys.follow(ChunkKeys(false));
  keys.clear();
  context.append(2);  // no chunk is complete
  keys.update(0, context.arenas(), context.layout());
  EXPECT_EQ(keys.len(0), context.layout().num_nodes(0));
}

INSTANTIATE_TEST_SUITE_P(Types, ChunkKeysTest,
                         testing::Values(at::kFloat, at::kHalf, at::kBFloat16),
                         [](const auto& info) { return std::string(c10::toString(info.param)); });

}  // namespace
}  // namespace gsa::attention
