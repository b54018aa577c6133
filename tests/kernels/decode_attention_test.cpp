#include "kernels/cpu/decode_attention.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <string>
#include <vector>

#include "core/rng.h"
#include "random_keys.h"
#include "random_weights.h"

namespace gsa::kernels {
namespace {

using core::DataType;
using test::Backwards;
using test::random_values;
using test::Values;

/// Keys and values of a KV head in runs of random lengths, each in memory of its own.
struct Head {
  std::vector<Values> k, v;
  std::vector<KeyRun> runs;
  std::int64_t num_keys = 0;
};

Head random_head(core::Rng& rng, DataType type, std::int64_t head_dim, int max_runs) {
  Head head;
  const int num_runs = static_cast<int>(rng.below(max_runs + 1));
  for (int i = 0; i < num_runs; ++i) {
    const std::int64_t count = 1 + rng.below(rng.below(3) == 0 ? 400 : 20);
    head.k.push_back(random_values(rng, type, count * head_dim));
    head.v.push_back(random_values(rng, type, count * head_dim));
    head.runs.push_back({head.k.back().stored.data(), head.v.back().stored.data(), count});
    head.num_keys += count;
  }
  return head;
}

std::vector<double> scores_of(const Head& head, const float* q, std::int64_t head_dim) {
  std::vector<double> scores;
  for (const Values& k : head.k) {
    for (std::size_t j = 0; j < k.exact.size(); j += head_dim) {
      double score = 0;
      for (std::int64_t i = 0; i < head_dim; ++i) score += double{q[i]} * k.exact[j + i];
      scores.push_back(score);
    }
  }
  return scores;
}

std::vector<double> attention_of(const Head& head, const float* q, const DecodeShape& shape) {
  std::vector<double> weights = scores_of(head, q, shape.head_dim);
  std::vector<double> out(shape.head_dim);
  if (weights.empty()) return out;
  const double peak = *std::max_element(weights.begin(), weights.end());
  for (double& weight : weights) weight = std::exp((weight - peak) * shape.scale);
  const double sum = std::accumulate(weights.begin(), weights.end(), 0.0);
  std::size_t key = 0;
  for (const Values& v : head.v) {
    for (std::size_t j = 0; j < v.exact.size(); j += shape.head_dim, ++key) {
      for (std::int64_t i = 0; i < shape.head_dim; ++i)
        out[i] += weights[key] / sum * v.exact[j + i];
    }
  }
  return out;
}

std::vector<float> random_rows(core::Rng& rng, std::int64_t count) {
  std::vector<float> rows(count);
  for (float& x : rows) x = 4 * rng.uniform() - 2;
  return rows;
}

constexpr DataType kTypes[] = {DataType::f32, DataType::f16, DataType::bf16};

/// Of values up to 2 in size. With products in bf16, q and the weights are rounded by 2^-9.
double tolerance(DataType type, Isa isa) {
  return type == DataType::bf16 && isa >= Isa::avx512_bf16 ? 2e-2 : 1e-5;
}

TEST(DecodeAttention, EqualsTheFormulaOnEveryInstructionSet) {
  core::Rng rng(1);
  const std::int64_t sizes[] = {8, 16, 24, 40, 64, 72, 80, 96, 128, 256};
  for (int round = 0; round < 120; ++round) {
    DecodeShape shape{kTypes[round % 3], 1 + rng.below(4), 1 + rng.below(9),
                      sizes[rng.below(std::size(sizes))]};
    shape.scale = 1 / std::sqrt(static_cast<float>(shape.head_dim));
    std::vector<Head> heads;
    std::vector<KeyRuns> runs;
    for (std::int64_t i = 0; i < shape.num_kv_heads; ++i)
      heads.push_back(random_head(rng, shape.type, shape.head_dim, 5));
    for (const Head& head : heads) runs.push_back({head.runs, head.num_keys});
    const std::int64_t num_heads = shape.num_kv_heads * shape.group, d = shape.head_dim;
    const std::vector<float> q = random_rows(rng, num_heads * d);
    Backwards parallel(1 + static_cast<int>(rng.below(7)));
    std::vector<std::byte> scratch(decode_scratch_bytes(shape, parallel.num_threads()));
    for (const Isa isa : test::supported_isas()) {
      std::vector<float> out(num_heads * d, std::numeric_limits<float>::quiet_NaN());
      decode_attention(shape, q.data(), runs, scratch.data(), out.data(), parallel, isa);
      for (std::int64_t h = 0; h < num_heads; ++h) {
        const auto expected = attention_of(heads[h / shape.group], q.data() + h * d, shape);
        for (std::int64_t i = 0; i < d; ++i) {
          ASSERT_NEAR(out[h * d + i], expected[i], tolerance(shape.type, isa))
              << "round " << round << ", " << isa_name(isa) << ", " << data_type_name(shape.type)
              << ", head size " << d << ", group " << shape.group << ", head " << h << ", at " << i;
        }
      }
    }
  }
}

// A score far above the others in a later tile: what was summed before must shrink to nothing.
TEST(DecodeAttention, SurvivesScoresFarApart) {
  constexpr std::int64_t kDim = 64, kNumKeys = 700;
  std::vector<float> k(kNumKeys * kDim), v(kNumKeys * kDim), q(kDim, 1.0F);
  for (std::int64_t j = 0; j < kNumKeys; ++j) {
    k[j * kDim] = j == 600 ? 1000.0F : -1000.0F + static_cast<float>(j);
    v[j * kDim] = static_cast<float>(j);
  }
  const KeyRun run{k.data(), v.data(), kNumKeys};
  const KeyRuns runs{{&run, 1}, kNumKeys};
  for (const Isa isa : test::supported_isas()) {
    for (const int num_threads : {1, 3}) {
      Backwards parallel(num_threads);
      const DecodeShape shape{DataType::f32, 1, 1, kDim};
      std::vector<std::byte> scratch(decode_scratch_bytes(shape, num_threads));
      std::vector<float> out(kDim);
      decode_attention(shape, q.data(), {&runs, 1}, scratch.data(), out.data(), parallel, isa);
      EXPECT_NEAR(out[0], 600, 1e-3) << isa_name(isa);
      EXPECT_EQ(out[1], 0);
    }
  }
}

TEST(ScoreKeys, EqualsTheFormulaOnEveryInstructionSet) {
  core::Rng rng(2);
  for (int round = 0; round < 60; ++round) {
    const DataType type = kTypes[round % 3];
    const std::int64_t d = 8 * (1 + rng.below(17)), num_queries = 1 + rng.below(9);
    const Head head = random_head(rng, type, d, 6);
    const std::vector<float> q = random_rows(rng, num_queries * d);
    const std::int64_t stride = head.num_keys + rng.below(3);
    for (const Isa isa : test::supported_isas()) {
      std::vector<float> out(num_queries * stride, 7);
      score_keys(type, q.data(), num_queries, d, {head.runs, head.num_keys}, out.data(), stride,
                 isa);
      for (std::int64_t h = 0; h < num_queries; ++h) {
        const std::vector<double> expected = scores_of(head, q.data() + h * d, d);
        for (std::int64_t j = 0; j < head.num_keys; ++j)
          ASSERT_NEAR(out[h * stride + j], expected[j], 1e-4) << isa_name(isa) << ", " << d;
        for (std::int64_t j = head.num_keys; j < stride; ++j) ASSERT_EQ(out[h * stride + j], 7);
      }
    }
  }
}

TEST(TopK, IsTheFrontOfAStableSort) {
  core::Rng rng(3);
  constexpr float kInf = std::numeric_limits<float>::infinity();
  for (int round = 0; round < 600; ++round) {
    const std::int64_t count = 1 + rng.below(round % 3 == 0 ? 2000 : 40);
    const std::int64_t k = 1 + rng.below(static_cast<std::uint32_t>(count) + 2);
    const std::uint32_t num_values = 1 + rng.below(round % 2 == 0 ? 5 : 100000);  // few: many equal
    std::vector<float> scores(count);
    for (float& score : scores) {
      score = (static_cast<float>(rng.below(num_values)) - 2) * (rng.below(9) == 0 ? 1e20F : 1e-3F);
      if (rng.below(12) == 0) score = -kInf;
      if (rng.below(200) == 0) score = kInf;
      if (rng.below(50) == 0) score = -0.0F;
    }
    std::vector<std::int32_t> expected(count);
    std::iota(expected.begin(), expected.end(), 0);
    std::stable_sort(expected.begin(), expected.end(),
                     [&](std::int32_t a, std::int32_t b) { return scores[a] > scores[b]; });
    expected.resize(std::min(k, count));
    std::erase_if(expected, [&](std::int32_t i) { return scores[i] == -kInf; });
    std::sort(expected.begin(), expected.end());
    for (const Isa isa : test::supported_isas()) {
      std::vector<std::int32_t> keys(count), ids(std::min(k, count));
      const std::int64_t number = top_k(scores.data(), count, k, keys.data(), ids.data(), isa);
      ids.resize(number);
      ASSERT_EQ(ids, expected) << "round " << round << ", " << isa_name(isa);
    }
  }
}

TEST(TopK, TakesNotANumberForALargeOrNone) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const std::vector<float> scores{1, nan, 3, -nan, 2};
  std::vector<std::int32_t> keys(5), ids(5);
  for (const Isa isa : test::supported_isas()) {
    ASSERT_EQ(top_k(scores.data(), 5, 5, keys.data(), ids.data(), isa), 4);
    EXPECT_EQ(ids, (std::vector<std::int32_t>{0, 1, 2, 4, 0}));
    ASSERT_EQ(top_k(scores.data(), 5, 2, keys.data(), ids.data(), isa), 2);
    EXPECT_EQ(ids[0], 1);
    EXPECT_EQ(ids[1], 2);
  }
}

}  // namespace
}  // namespace gsa::kernels
