#include "attention/kv_store.h"

#include <ATen/core/Tensor.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/randn_like.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <memory>

#include "ATen/CPUGeneratorImpl.h"
#include "attention/allocation_meter.h"
#include "core/rng.h"

namespace gsa::attention {
namespace {

constexpr std::int64_t kNumLayers = 2, kNumKvHeads = 2, kHeadDim = 3;
constexpr int kNumLevels = 2;
// Bytes of one key with its value in all layers, f32.
constexpr std::int64_t kEntryBytes = kNumLayers * 2 * kNumKvHeads * kHeadDim * 4;

KvShape shape() { return {kNumLayers, kNumKvHeads, kHeadDim, kNumLevels, at::kFloat}; }

/// Rows [T, H_kv, d] in which every number follows from the entry's label, the layer and its place.
at::Tensor rows(const std::vector<float>& labels, std::int64_t layer) {
  const auto count = static_cast<std::int64_t>(labels.size());
  const at::Tensor places = at::arange(kNumKvHeads * kHeadDim, at::kFloat).div_(16);
  at::Tensor result = places.view({1, kNumKvHeads, kHeadDim}).repeat({count, 1, 1});
  for (std::int64_t i = 0; i < count; ++i) {
    result.select(0, i).add_(labels[i] + 0.5 * static_cast<double>(layer));
  }
  return result;
}

/// A store with what it should hold: per level the labels of its entries.
struct Model {
  KvStore store{shape()};
  std::vector<float> labels[1 + kNumLevels];
  std::int64_t num_shared[1 + kNumLevels] = {};

  void append(int level, const std::vector<float>& added) {
    for (std::int64_t layer = 0; layer < kNumLayers; ++layer) {
      const at::Tensor k = rows(added, layer);
      store.append(layer, level, k, k.neg());
    }
    labels[1 + level].insert(labels[1 + level].end(), added.begin(), added.end());
  }

  void truncate(int level, std::int64_t len) {
    store.truncate(level, len);
    auto& live = labels[1 + level];
    live.resize(std::min(len, static_cast<std::int64_t>(live.size())));
    num_shared[1 + level] = std::min(num_shared[1 + level], len);
  }

  Model fork() {
    for (int i = 0; i <= kNumLevels; ++i)
      num_shared[i] = static_cast<std::int64_t>(labels[i].size());
    Model result;
    result.store = store.fork();
    for (int i = 0; i <= kNumLevels; ++i) {
      result.labels[i] = labels[i];
      result.num_shared[i] = num_shared[i];
    }
    return result;
  }

  void check() const {
    std::int64_t num_entries = 0, num_owned = 0;
    for (int level = kRawLevel; level < kNumLevels; ++level) {
      const auto& live = labels[1 + level];
      const auto len = static_cast<std::int64_t>(live.size());
      ASSERT_EQ(store.len(level), len);
      num_entries += len;
      num_owned += len - num_shared[1 + level];
      for (std::int64_t layer = 0; layer < kNumLayers; ++layer) {
        const KvArenas arenas = store.arenas(layer);
        const KvArena& arena = arenas.at(level);
        const at::Tensor expected = rows(live, layer).transpose(0, 1);
        ASSERT_EQ(arena.len(), len);
        std::int64_t begin = 0;
        for (const KvSpan& span : arena.spans) {
          ASSERT_EQ(span.begin, begin);
          ASSERT_GT(span.len(), 0);
          ASSERT_TRUE(span.k.equal(expected.narrow(1, begin, span.len())));
          ASSERT_TRUE(span.v.equal(expected.narrow(1, begin, span.len()).neg()));
          begin += span.len();
        }
        ASSERT_EQ(begin, len);
      }
    }
    ASSERT_EQ(store.bytes(), num_entries * kEntryBytes);
    ASSERT_EQ(store.owned_bytes(), num_owned * kEntryBytes);
  }
};

std::vector<float> fresh_labels(float& next, std::size_t count) {
  std::vector<float> labels(count);
  for (float& label : labels) label = next++;
  return labels;
}

TEST(KvStore, AnyOperationsEqualAVectorOfRows) {
  core::Rng rng(1);
  for (int round = 0; round < 30; ++round) {
    float next_label = 1;
    std::vector<std::unique_ptr<Model>> models;
    models.push_back(std::make_unique<Model>());
    for (int step = 0; step < 60; ++step) {
      Model& model = *models[rng.below(static_cast<std::uint32_t>(models.size()))];
      const int level = static_cast<int>(rng.below(1 + kNumLevels)) - 1;
      switch (rng.below(8)) {
        case 0:
          model.store.reserve(level, rng.below(100));
          break;
        case 1:
          model.truncate(level, rng.below(static_cast<std::uint32_t>(model.store.len(level) + 3)));
          break;
        case 2:
          if (models.size() < 5) models.push_back(std::make_unique<Model>(model.fork()));
          break;
        case 3:  // a store goes away while its forks live on
          if (models.size() > 1 && rng.below(3) == 0) {
            models.erase(models.begin() + rng.below(static_cast<std::uint32_t>(models.size())));
          }
          break;
        default:
          model.append(level, fresh_labels(next_label, rng.below(rng.below(10) == 0 ? 90 : 6)));
      }
      for (const auto& each : models) {
        each->check();
        if (HasFatalFailure()) FAIL() << "round " << round << ", step " << step;
      }
    }
  }
}

TEST(KvStore, ForksShareStorageAndCopyNothing) {
  Model original;
  float next_label = 1;
  original.append(kRawLevel, fresh_labels(next_label, 100));
  original.append(0, fresh_labels(next_label, 10));
  const float* k = original.store.arenas(0).raw.spans[0].k.data_ptr<float>();
  const AllocationMeter meter;
  Model fork = original.fork();
  EXPECT_EQ(meter.num_allocations(), 0);
  EXPECT_EQ(fork.store.arenas(0).raw.spans[0].k.data_ptr<float>(), k);
  EXPECT_EQ(fork.store.owned_bytes(), 0);

  // Tails lie apart, and the shared part stays where it was.
  original.append(kRawLevel, fresh_labels(next_label, 3));
  fork.append(kRawLevel, fresh_labels(next_label, 5));
  for (const Model* model : {&original, &fork}) {
    model->check();
    EXPECT_EQ(model->store.arenas(0).raw.spans[0].k.data_ptr<float>(), k);
  }
  EXPECT_EQ(fork.store.owned_bytes(), 5 * kEntryBytes);
  EXPECT_NE(original.store.arenas(0).raw.spans[1].k.data_ptr<float>(),
            fork.store.arenas(0).raw.spans[1].k.data_ptr<float>());
}

TEST(KvStore, AppendsAfterTruncationInsideTheSharedPartHurtNobody) {
  Model original;
  float next_label = 1;
  original.append(kRawLevel, fresh_labels(next_label, 50));
  Model fork = original.fork();
  fork.truncate(kRawLevel, 20);
  fork.append(kRawLevel, fresh_labels(next_label, 40));
  fork.check();
  original.check();
  original.truncate(kRawLevel, 30);
  original.append(kRawLevel, fresh_labels(next_label, 1));
  original.check();
  fork.check();
}

TEST(KvStore, ReservedRoomIsEnough) {
  for (const bool is_fork : {false, true}) {
    Model model;
    float next_label = 1;
    model.append(kRawLevel, fresh_labels(next_label, 7));
    Model other;
    if (is_fork) other = model.fork();
    model.store.reserve(kRawLevel, 200);
    const at::Tensor k = rows(fresh_labels(next_label, 20), 0);
    const AllocationMeter meter;
    for (int i = 0; i < 10; ++i) model.store.append(0, kRawLevel, k, k);
    EXPECT_EQ(meter.num_allocations(), 0);
    model.store.append(0, kRawLevel, k, k);
    EXPECT_GT(meter.num_allocations(), 0);
  }
}

TEST(KvStore, GrowthAllocatesSeldom) {
  Model model;
  const at::Tensor k = rows({1}, 0);
  const AllocationMeter meter;
  for (int i = 0; i < 4096; ++i) model.store.append(0, kRawLevel, k, k);
  EXPECT_LT(meter.num_allocations(), 20);  // by doubling
}

TEST(KvStore, AppendsSingleRowsAsItAppendsTensors) {
  for (const at::ScalarType dtype : {at::kFloat, at::kHalf, at::kBFloat16}) {
    KvShape of_dtype = shape();
    of_dtype.options = dtype;
    KvStore by_row(of_dtype), at_once(of_dtype);
    const at::Tensor k = at::randn({100, kNumKvHeads, kHeadDim}), v = at::randn_like(k);
    at_once.append(1, 0, k, v);
    for (std::int64_t i = 0; i < k.size(0); ++i) {
      const std::int64_t offset = i * kNumKvHeads * kHeadDim;
      by_row.append_row(1, 0, k.const_data_ptr<float>() + offset,
                        v.const_data_ptr<float>() + offset);
    }
    const KvArenas rows = by_row.arenas(1), expected = at_once.arenas(1);
    ASSERT_EQ(rows.gists[0].len(), 100);
    EXPECT_TRUE(at::equal(rows.gists[0].spans[0].k, expected.gists[0].spans[0].k)) << dtype;
    EXPECT_TRUE(at::equal(rows.gists[0].spans[0].v, expected.gists[0].spans[0].v)) << dtype;
  }
}

// Megabytes of entries lie in huge pages; growing moves them there.
TEST(KvStore, KeepsLargeArenas) {
  KvStore store({1, 2, 64, 0, at::kFloat});
  const at::Tensor k = at::randn({9000, 2, 64}), v = at::randn_like(k);
  for (std::int64_t begin = 0; begin < 9000; begin += 500)
    store.append(0, kRawLevel, k.narrow(0, begin, 500), v.narrow(0, begin, 500));
  const KvArenas arenas = store.arenas(0);
  EXPECT_TRUE(at::equal(arenas.raw.spans[0].k, k.transpose(0, 1)));
  EXPECT_TRUE(at::equal(arenas.raw.spans[0].v, v.transpose(0, 1)));
}

TEST(KvStore, EmptyStoresHaveNoHeads) {
  const KvStore store(shape());
  EXPECT_EQ(store.arenas(0).num_kv_heads(), 0);
  EXPECT_EQ(store.bytes(), 0);
  for (int level = kRawLevel; level < kNumLevels; ++level) EXPECT_EQ(store.len(level), 0);
}

}  // namespace
}  // namespace gsa::attention
