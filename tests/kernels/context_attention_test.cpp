#include "kernels/cpu/context_attention.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "kernels/random_keys.h"
#include "kernels/random_weights.h"

namespace gsa::kernels {
namespace {

using core::DataType;
using test::Backwards;
using test::random_values;
using test::Values;

constexpr double kMinusInf = -std::numeric_limits<double>::infinity();

/// An arena of keys in spans of random lengths, each in memory of its own.
struct Arena {
  std::vector<Values> k, v;
  std::vector<KeySpan> spans;
  std::int64_t num_keys = 0;
};

Arena random_arena(core::Rng& rng, const ContextShape& shape, std::int64_t num_keys) {
  Arena arena;
  const std::int64_t d = shape.head_dim;
  while (arena.num_keys < num_keys) {
    const std::int64_t rest = num_keys - arena.num_keys;
    const std::int64_t len =
        rng.below(2) == 0 ? rest : 1 + rng.below(static_cast<std::uint32_t>(rest));
    arena.k.push_back(random_values(rng, shape.type, shape.num_kv_heads * len * d));
    arena.v.push_back(random_values(rng, shape.type, shape.num_kv_heads * len * d));
    // Either all entries of a head side by side, or all heads of an entry.
    const bool by_head = rng.below(2) == 0;
    arena.spans.push_back({arena.k.back().stored.data(), arena.v.back().stored.data(),
                           by_head ? len * d : d, by_head ? d : shape.num_kv_heads * d,
                           arena.num_keys, len});
    arena.num_keys += len;
  }
  return arena;
}

/// Where entry `entry` of a KV head lies: in which span, at which element.
std::pair<std::size_t, std::int64_t> locate(const Arena& arena, std::int64_t kv_head,
                                            std::int64_t entry) {
  std::size_t i = 0;
  while (entry >= arena.spans[i].begin + arena.spans[i].len) ++i;
  const KeySpan& span = arena.spans[i];
  return {i, kv_head * span.head_stride + (entry - span.begin) * span.row_stride};
}

struct Column {
  Arena arena;
  std::vector<std::int64_t> begin, end;  // per query
};

enum class Look { causal, sliding, ragged, empty };

Column random_column(core::Rng& rng, const ContextShape& shape, Look look) {
  const std::int64_t n = shape.num_queries;
  const std::int64_t before = rng.below(3) == 0 ? rng.below(500) : rng.below(20);
  const std::int64_t width = 1 + rng.below(90);
  Column column{random_arena(rng, shape, n + before), {}, {}};
  for (std::int64_t t = 0; t < n; ++t) {
    const std::int64_t end = before + t + 1;
    const std::int64_t anywhere = rng.below(static_cast<std::uint32_t>(end));
    column.begin.push_back(look == Look::causal    ? 0
                           : look == Look::sliding ? std::max<std::int64_t>(0, end - width)
                                                   : anywhere);
    column.end.push_back(look == Look::empty ? column.begin.back()
                         : look == Look::ragged
                             ? anywhere + rng.below(static_cast<std::uint32_t>(end - anywhere + 1))
                             : end);
  }
  return column;
}

struct Expected {
  std::vector<double> out;
  double lse = kMinusInf;
};

Expected attention_of(const ContextShape& shape, const std::vector<Column>& columns, const float* q,
                      std::int64_t query, std::int64_t kv_head) {
  const std::int64_t d = shape.head_dim;
  std::vector<double> scores;
  std::vector<const float*> values;
  for (const Column& column : columns) {
    for (std::int64_t entry = column.begin[query]; entry < column.end[query]; ++entry) {
      const auto [span, at] = locate(column.arena, kv_head, entry);
      const float* k = column.arena.k[span].exact.data() + at;
      double score = 0;
      for (std::int64_t c = 0; c < d; ++c) score += double{q[c]} * k[c];
      scores.push_back(score * shape.scale);
      values.push_back(column.arena.v[span].exact.data() + at);
    }
  }
  Expected expected{std::vector<double>(d)};
  if (scores.empty()) return expected;
  const double peak = *std::max_element(scores.begin(), scores.end());
  double sum = 0;
  for (const double score : scores) sum += std::exp(score - peak);
  for (std::size_t j = 0; j < scores.size(); ++j) {
    for (std::int64_t c = 0; c < d; ++c)
      expected.out[c] += std::exp(scores[j] - peak) / sum * values[j][c];
  }
  expected.lse = peak + std::log(sum);
  return expected;
}

std::vector<float> to_floats(DataType type, const std::vector<std::byte>& stored,
                             std::int64_t count) {
  std::vector<float> values(count);
  core::dequantize(type, stored, values);
  return values;
}

/// Values are up to 2 in size. Results in bf16 are rounded by 2^-9, weights on some sets too.
double tolerance(DataType type) { return type == DataType::bf16 ? 2e-2 : 1e-5; }

void attend(const ContextShape& shape, const void* q, std::span<const KeyColumn> columns, void* out,
            float* lse, Parallel& parallel, Isa isa) {
  const std::int64_t bytes = context_scratch_bytes(shape, parallel.num_threads(), isa);
  std::vector<std::byte> memory(bytes + 64);  // what was there before must not matter
  std::fill(memory.begin(), memory.end(), std::byte{0xFF});
  const auto address = reinterpret_cast<std::uintptr_t>(memory.data());
  context_attention(shape, q, columns, memory.data() + (64 - address % 64) % 64, out, lse, parallel,
                    isa);
}

void expect_formula(core::Rng& rng, const ContextShape& shape, const std::vector<Column>& columns) {
  const std::int64_t num_heads = shape.num_kv_heads * shape.group, d = shape.head_dim;
  const std::int64_t num_rows = shape.num_queries * num_heads;
  const Values q = random_values(rng, shape.type, num_rows * d);
  std::vector<KeyColumn> views;
  for (const Column& column : columns)
    views.push_back({column.arena.spans.data(), column.begin.data(), column.end.data()});
  std::vector<Expected> expected;
  for (std::int64_t row = 0; row < num_rows; ++row) {
    expected.push_back(attention_of(shape, columns, q.exact.data() + row * d, row / num_heads,
                                    row % num_heads / shape.group));
  }
  Backwards parallel(1 + static_cast<int>(rng.below(5)));
  for (const Isa isa : test::supported_isas()) {
    std::vector<std::byte> out(num_rows * d * core::block_bytes(shape.type), std::byte{0xFF});
    std::vector<float> lse(num_rows, std::numeric_limits<float>::quiet_NaN());
    attend(shape, q.stored.data(), views, out.data(), lse.data(), parallel, isa);
    const std::vector<float> values = to_floats(shape.type, out, num_rows * d);
    SCOPED_TRACE(std::string(isa_name(isa)) + ", " + std::string(data_type_name(shape.type)) +
                 ", head size " + std::to_string(d) + ", group " + std::to_string(shape.group) +
                 ", " + std::to_string(shape.num_queries) + " queries");
    for (std::int64_t row = 0; row < num_rows; ++row) {
      if (expected[row].lse == kMinusInf) {
        ASSERT_EQ(lse[row], kMinusInf);
      } else {
        ASSERT_NEAR(lse[row], expected[row].lse, 1e-4) << "row " << row;
      }
      for (std::int64_t c = 0; c < d; ++c)
        ASSERT_NEAR(values[row * d + c], expected[row].out[c], tolerance(shape.type))
            << "row " << row << ", at " << c;
    }
  }
}

TEST(ContextAttention, EqualsTheFormulaOnEveryInstructionSet) {
  core::Rng rng(1);
  const std::int64_t sizes[] = {8, 16, 24, 32, 40, 64, 72, 96, 128};
  for (int round = 0; round < 120; ++round) {
    ContextShape shape{round % 2 == 0 ? DataType::bf16 : DataType::f32};
    shape.num_queries = rng.below(3) == 0 ? 1 + rng.below(150) : 1 + rng.below(20);
    shape.num_kv_heads = 1 + rng.below(3);
    shape.group = 1 + rng.below(8);
    shape.head_dim = sizes[rng.below(std::size(sizes))];
    shape.scale = 1 / std::sqrt(static_cast<float>(shape.head_dim));
    std::vector<Column> columns;
    const std::uint32_t num_columns = rng.below(5);
    for (std::uint32_t i = 0; i < num_columns; ++i)
      columns.push_back(random_column(rng, shape, static_cast<Look>(rng.below(4))));
    expect_formula(rng, shape, columns);
    if (HasFatalFailure()) return;
  }
}

// Many columns: more pieces than a tile keeps track of.
TEST(ContextAttention, TakesAnyNumberOfColumns) {
  core::Rng rng(2);
  for (const DataType type : {DataType::f32, DataType::bf16}) {
    const ContextShape shape{type, 9, 1, 2, 32, 0.2F};
    std::vector<Column> columns;
    for (int i = 0; i < 40; ++i) {
      Column column{random_arena(rng, shape, 3), {}, {}};
      column.begin.assign(9, i % 2);
      column.end.assign(9, 3);
      columns.push_back(std::move(column));
    }
    expect_formula(rng, shape, columns);
  }
}

TEST(ContextAttention, TakesLargeHeads) {
  core::Rng rng(3);
  for (const std::int64_t head_dim : {200, 256, 512}) {
    for (const DataType type : {DataType::f32, DataType::bf16}) {
      const ContextShape shape{type, 40, 1, 3, head_dim, 0.05F};
      expect_formula(rng, shape, {random_column(rng, shape, Look::causal)});
    }
  }
}

/// One query of ones over keys and values whose first element is given.
struct OneQuery {
  static constexpr std::int64_t kDim = 64;
  DataType type;
  std::int64_t num_keys;
  std::vector<std::byte> k, v, q;

  OneQuery(DataType element, std::int64_t count)
      : type(element), num_keys(count), k(bytes(count)), v(bytes(count)), q(bytes(1)) {
    for (std::int64_t c = 0; c < kDim; ++c) put(q, c, 1);
  }

  std::int64_t bytes(std::int64_t rows) const { return rows * kDim * core::block_bytes(type); }
  void put(std::vector<std::byte>& target, std::int64_t at, float value) const {
    auto bits = std::bit_cast<std::uint32_t>(value);
    if (type == DataType::bf16) bits >>= 16;
    std::memcpy(target.data() + at * core::block_bytes(type), &bits, core::block_bytes(type));
  }
  void set_key(std::int64_t j, float key, float value) {
    put(k, j * kDim, key);
    put(v, j * kDim, value);
  }

  /// The first two elements of the result, and the logarithm.
  std::array<float, 3> attend_to_all(Isa isa) const {
    const KeySpan span{k.data(), v.data(), num_keys * kDim, kDim, 0, num_keys};
    const std::int64_t begin = 0;
    const KeyColumn column{&span, &begin, &num_keys};
    Backwards parallel(2);
    std::vector<std::byte> out(bytes(1));
    float lse = 0;
    attend({type, 1, 1, 1, kDim}, q.data(), {&column, 1}, out.data(), &lse, parallel, isa);
    const std::vector<float> values = to_floats(type, out, kDim);
    return {values[0], values[1], lse};
  }
};

// A score far above the others in a later tile: what was summed before must shrink to nothing.
TEST(ContextAttention, SurvivesScoresFarApart) {
  for (const DataType type : {DataType::f32, DataType::bf16}) {
    OneQuery query(type, 700);
    for (std::int64_t j = 0; j < 700; ++j)
      query.set_key(j, j == 600 ? 1000.0F : -1000.0F + static_cast<float>(j / 8 * 8), 2);
    query.set_key(600, 1000, 600);
    for (const Isa isa : test::supported_isas()) {
      const auto [first, second, lse] = query.attend_to_all(isa);
      EXPECT_NEAR(first, 600, 1e-3) << isa_name(isa);
      EXPECT_EQ(second, 0);
      EXPECT_NEAR(lse, 1000, 1e-3);
    }
  }
}

// What is not a number must not turn into one.
TEST(ContextAttention, KeepsNan) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  for (const DataType type : {DataType::f32, DataType::bf16}) {
    OneQuery bad_key(type, 300), bad_query(type, 300);
    for (std::int64_t j = 0; j < 300; ++j) {
      bad_key.set_key(j, j == 77 ? nan : 1, 1);
      bad_query.set_key(j, 1, 1);
    }
    bad_query.put(bad_query.q, 5, nan);
    for (const Isa isa : test::supported_isas()) {
      for (const OneQuery* query : {&bad_key, &bad_query}) {
        const auto [first, second, lse] = query->attend_to_all(isa);
        EXPECT_TRUE(std::isnan(first)) << isa_name(isa) << ", " << data_type_name(type);
        EXPECT_TRUE(std::isnan(lse)) << isa_name(isa);
      }
    }
  }
}

TEST(ContextAttention, OfNothingIsNothing) {
  for (const Isa isa : test::supported_isas()) {
    Backwards parallel(2);
    attend({DataType::f32, 0, 2, 3, 64}, nullptr, {}, nullptr, nullptr, parallel, isa);
  }
}

TEST(ContextAttention, RefusesShapesThatItDoesNotTake) {
  Backwards parallel(1);
  const auto refuses = [&](const ContextShape& shape) {
    EXPECT_ANY_THROW(attend(shape, nullptr, {}, nullptr, nullptr, parallel, Isa::portable));
  };
  refuses({DataType::f16, 1, 1, 1, 64});
  refuses({DataType::f32, 1, 1, 1, 12});
  refuses({DataType::f32, 1, 1, 1, 520});
  refuses({DataType::f32, 1, 1, 1, 64, 0.0F});
}

}  // namespace
}  // namespace gsa::kernels
