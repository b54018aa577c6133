#include "attention/read_meter.h"

#include <ATen/ops/full.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include "attention/batch.h"

namespace gsa::attention {
namespace {

// 23 words in chunks of 4 with 3 sinks: raw [0, 7) [7, 11) [11, 15) [15, 19) [19, 23), and one
// query behind them.
constexpr std::int64_t kNumRaw = 23;

/// One query attends through layers 0 and 1; its heads point at the gists named by `favourites`
/// (per query head) of every level.
ReadMeter answer(const char* text, std::vector<std::vector<std::int64_t>> favourites) {
  const PolicySpec spec = PolicySpec::parse(text);
  const auto policy = make_policy(spec);
  Layout layout(spec.layout);
  layout.append(std::vector<std::uint8_t>(kNumRaw, 1));
  layout.end_piece();
  const auto num_heads = static_cast<std::int64_t>(favourites.size());
  const int num_levels = policy->uses_gists() ? layout.num_levels() : 0;
  // One dimension per query head; a head's query has only its own.
  KvStore store({2, 1, num_heads, num_levels, at::kFloat});
  for (std::int64_t layer = 0; layer < 2; ++layer) {
    const at::Tensor raw = at::zeros({kNumRaw, 1, num_heads});
    store.append(layer, kRawLevel, raw, raw);
    if (policy->observes_context()) policy->observe(layer, at::ones({1, kNumRaw}));
    for (int level = 0; level < num_levels; ++level) {
      const at::Tensor gists = at::zeros({layout.num_nodes(level), 1, num_heads});
      for (std::int64_t head = 0; head < num_heads; ++head) {
        gists[favourites[head][level]][0][head] = 5;
      }
      store.append(layer, level, gists, gists);
    }
  }
  ReadMeter meter;
  Batch batch;
  batch.tokens = batch.positions = at::full({1}, kNumRaw, at::kLong);
  batch.sequences.push_back(
      {&layout, policy.get(), &store, &meter, {{{kRawLevel, kNumRaw, 1}, 0, true}}});
  BatchAttention attention(batch, 1.0);
  at::Tensor q = at::zeros({1, num_heads, num_heads});
  for (std::int64_t head = 0; head < num_heads; ++head) q[0][head][head] = 1;
  const at::Tensor own = at::zeros({1, 1, num_heads});
  for (std::int64_t layer = 0; layer < 2; ++layer) attention(layer, q, own, own);
  return meter;
}

void expect_read(const ReadMeter& meter, double layer_0, double layer_1) {
  EXPECT_DOUBLE_EQ(meter.keys_read(), layer_0 + layer_1);
  EXPECT_DOUBLE_EQ(meter.fraction(), (layer_0 + layer_1) / (2.0 * (kNumRaw + 1)));
  EXPECT_EQ(meter.num_query_layers(), 2);
}

// Always visible: 3 sinks, 4 raw tokens of the last chunk, the query. Layer 0 adds all 5 gists;
// layer 1 one gist and its chunk, and 4 gists are only scored.
constexpr double kStatic = 3 + 4 + 1;

TEST(ReadMeter, OneLevelByHand) {
  expect_read(answer("gsa@4", {{1}}), kStatic + 5, kStatic + 1 + 4 + 4 / 2.0);
  expect_read(answer("gsa@4", {{2}}), kStatic + 5, kStatic + 1 + 4 + 4 / 2.0);
}

TEST(ReadMeter, ChunksThatAreVisibleAnywayCountOnce) {
  // 3 of chunk 0's 7 tokens are sinks; all of the last chunk is local.
  expect_read(answer("gsa@4", {{0}}), kStatic + 5, kStatic + 1 + 4 + 4 / 2.0);
  expect_read(answer("gsa@4", {{4}}), kStatic + 5, kStatic + 1 + 0 + 4 / 2.0);
}

TEST(ReadMeter, HeadsThatShareKeysReadTheirUnion) {
  expect_read(answer("gsa@4", {{1}, {2}}), kStatic + 5, kStatic + 2 + 8 + 3 / 2.0);
  expect_read(answer("gsa@4", {{2}, {2}}), kStatic + 5, kStatic + 1 + 4 + 4 / 2.0);
  // As a group they choose one; 1 and 2 are alike, each costs the same.
  expect_read(answer("gsa@4:mode=group", {{1}, {2}}), kStatic + 5, kStatic + 1 + 4 + 4 / 2.0);
}

TEST(ReadMeter, TwoLevelsByHand) {
  // Sections {0, 1} {2, 3} {4}. Layer 0 sees the 3 gists of level 1 and the last section's one.
  // Layer 1 scores 3 gists of level 1 and the 2 children of the best.
  expect_read(answer("gsa@4-2", {{2, 1}}), kStatic + 3 + 1, kStatic + 2 + 4 + 3 / 2.0);
}

TEST(ReadMeter, VariantsByHand) {
  expect_read(answer("gsa@4:gists=all", {{1}}), kStatic + 5, kStatic + 5 + 4);
  expect_read(answer("gsa@4:gists=hidden", {{1}}), kStatic, kStatic + 4 + 5 / 2.0);
  expect_read(answer("gist-only@4", {{1}}), kStatic + 5, kStatic + 5);
  expect_read(answer("full", {{}}), kNumRaw + 1, kNumRaw + 1);
  expect_read(answer("streaming:tokens=6", {{}}), 3 + 6, 3 + 6);
  // All mean keys are zero, so any chunk may win: 4 raw tokens outside the static part, or none for
  // the last chunk. With a budget of every token all but the local chunk are read.
  expect_read(answer("meanpool@4:tokens=100", {{}}), kNumRaw + 1, kNumRaw + 1 + 5 / 2.0);
  expect_read(answer("random@4:tokens=100", {{}}), kNumRaw + 1, kNumRaw + 1);
  // 6 pages with two vectors each; the first layer is dense.
  expect_read(answer("quest@4:dense=1:tokens=100", {{}}), kNumRaw + 1, kNumRaw + 1 + 2 * 6 / 2.0);
  expect_read(answer("quest@4", {{}}), kNumRaw + 1, kNumRaw + 1);
}

TEST(ReadMeter, SingleTokensByHand) {
  expect_read(answer("snapkv:tokens=5", {{}}), 5 + 1, 5 + 1);
  expect_read(answer("oracle:tokens=5", {{}, {}}), 5 + 1, 5 + 1);
  expect_read(answer("oracle", {{}}), kNumRaw / 8 + 1, kNumRaw / 8 + 1);
  // Half of them recent, the query itself included.
  expect_read(answer("h2o:tokens=8", {{}}), 4 + 3 + 1, 4 + 3 + 1);
}

TEST(ReadMeter, AddsOverCallsAndResets) {
  ReadMeter meter;
  EXPECT_EQ(meter.fraction(), 0);
  EXPECT_EQ(meter.keys_read(), 0);
  RangeTable ranges;
  ranges.queries = {kRawLevel, 10, 2};  // full attention reads 11 and 12 keys per KV head
  meter.add(at::full({2, 3}, 4, at::kLong), {}, ranges);
  EXPECT_DOUBLE_EQ(meter.keys_read(), 24);
  EXPECT_DOUBLE_EQ(meter.fraction(), 24.0 / (3 * 23));
  ranges.queries = {kRawLevel, 0, 1};
  meter.add(at::ones({1, 3}, at::kLong), at::ones({1, 3}, at::kLong), ranges);
  EXPECT_DOUBLE_EQ(meter.keys_read(), 24 + 3 + 1.5);
  EXPECT_DOUBLE_EQ(meter.fraction(), 28.5 / (3 * 24));
  EXPECT_EQ(meter.num_query_layers(), 3);
  meter.add(5, 1, 3, 10);  // in numbers, of all heads
  EXPECT_DOUBLE_EQ(meter.keys_read(), 28.5 + 5.5);
  EXPECT_DOUBLE_EQ(meter.fraction(), 34.0 / (3 * 24 + 3 * 11));
  EXPECT_EQ(meter.num_query_layers(), 4);
  meter.reset();
  EXPECT_EQ(meter.fraction(), 0);
  EXPECT_EQ(meter.num_query_layers(), 0);
}

}  // namespace
}  // namespace gsa::attention
