#include "attention/packed_plan.h"

#include <gtest/gtest.h>

#include <map>
#include <set>

#include "attention/random_layout.h"
#include "core/rng.h"

namespace gsa::attention {
namespace {

using Pairs = std::set<std::pair<std::int64_t, std::int64_t>>;  // rows of query and key

struct PackedBatch {
  std::vector<std::unique_ptr<Layout>> layouts;
  Batch batch;
  std::vector<std::vector<PlannedSlice>> slices;
};

/// Some sequences [raw | g0 | g1 ... | suffixes], the suffixes in branches or as one text.
PackedBatch random_batch(core::Rng& rng) {
  PackedBatch result;
  std::int64_t row = 0;
  const int num_sequences = 1 + static_cast<int>(rng.below(3));
  for (int i = 0; i < num_sequences; ++i) {
    result.layouts.push_back(
        std::make_unique<Layout>(build(random_options(rng, 2), random_pieces(rng, 3, 150))));
    const Layout& layout = *result.layouts.back();
    BatchSequence sequence;
    sequence.layout = &layout;
    const auto add = [&](int level, std::int64_t begin, std::int64_t count, bool is_suffix) {
      sequence.slices.push_back({{level, begin, count}, row, is_suffix});
      row += count;
    };
    add(kRawLevel, 0, layout.num_raw(), false);
    for (int level = 0; level < layout.num_levels(); ++level)
      add(level, 0, layout.num_nodes(level), false);
    const std::int64_t num_suffix = rng.below(150);
    add(kRawLevel, layout.num_raw(), num_suffix, true);
    if (rng.below(2) == 0) {
      std::int64_t begin = layout.num_raw();
      for (std::int64_t t = 0; t < num_suffix; ++t) {
        if (rng.below(20) == 0) begin = layout.num_raw() + t;
        sequence.slices.back().entries.branch_begins.push_back(begin);
      }
    }
    result.batch.sequences.push_back(std::move(sequence));
  }
  for (const BatchSequence& sequence : result.batch.sequences) {
    auto& planned = result.slices.emplace_back();
    for (const BatchSlice& slice : sequence.slices) {
      if (slice.entries.count == 0) continue;
      StaticRule rule;
      rule.kind = slice.is_suffix ? StaticRule::Kind::local : StaticRule::Kind::gist;
      rule.all_gists = slice.is_suffix && rng.below(3) == 0;
      auto ranges =
          std::make_shared<const RangeTable>(visible_ranges(*sequence.layout, rule, slice.entries));
      planned.push_back({&slice, std::move(ranges), slice.is_suffix});
    }
  }
  return result;
}

/// Row of a key of a sequence, -1 if the batch does not hold it.
std::int64_t row_of(const BatchSequence& sequence, int level, std::int64_t idx) {
  for (const BatchSlice& slice : sequence.slices) {
    const std::int64_t offset = idx - slice.entries.begin;
    if (slice.entries.level == level && offset >= 0 && offset < slice.entries.count)
      return slice.row + offset;
  }
  return -1;
}

Pairs static_pairs(const PackedBatch& packed) {
  Pairs pairs;
  for (std::size_t i = 0; i < packed.slices.size(); ++i) {
    for (const PlannedSlice& planned : packed.slices[i]) {
      for (const RangeColumn& column : planned.ranges->columns) {
        for (std::int64_t t = 0; t < planned.ranges->queries.count; ++t) {
          for (std::int64_t j = column.begin[t]; j < column.end[t]; ++j) {
            const bool is_new = pairs
                                    .insert({planned.slice->row + t,
                                             row_of(packed.batch.sequences[i], column.level, j)})
                                    .second;
            EXPECT_TRUE(is_new) << "ranges overlap";
          }
        }
      }
    }
  }
  return pairs;
}

/// Pairs under range columns, and (query, key) pairs under mask columns with their mask places.
void expect_side(const HostPackedPlan& plan, const std::vector<kernels::PackedTile>& tiles,
                 const std::vector<kernels::PackedColumn>& columns, bool tiles_are_queries,
                 Pairs& pairs, std::map<std::pair<int, int>, std::pair<int, int>>& mask_places) {
  for (const kernels::PackedTile& tile : tiles) {
    ASSERT_LE(tile.row_count, kernels::kPackedTile);
    for (int c = tile.column_begin; c < tile.column_end; ++c) {
      const kernels::PackedColumn& column = columns[c];
      ASSERT_LT(column.begin, column.end);
      for (int i = 0; i < tile.row_count; ++i) {
        for (int other = column.begin; other < column.end; ++other) {
          const int row = tile.row_begin + i;
          const int query = tiles_are_queries ? row : other, key = tiles_are_queries ? other : row;
          const int nth = tiles_are_queries ? i : other - column.begin;
          if (column.bounds >= 0) {
            const kernels::RowRange range = plan.bounds[column.bounds + nth];
            if (key < range.begin || key >= range.end) continue;
            ASSERT_TRUE(pairs.insert({query, key}).second) << "a pair is computed twice";
          } else {
            const int word = tiles_are_queries ? (other - column.begin) / 64 : column.mask_word;
            const int bit = tiles_are_queries ? (other - column.begin) % 64 : i;
            ASSERT_TRUE(mask_places.insert({{query, key}, {column.mask_row + nth, 64 * word + bit}})
                            .second);
          }
        }
      }
    }
  }
}

TEST(PackedPlan, BothSidesHoldEveryVisiblePairOnce) {
  core::Rng rng(41);
  for (int round = 0; round < 60; ++round) {
    const PackedBatch packed = random_batch(rng);
    const auto plan = plan_packed(packed.batch, packed.slices);
    ASSERT_TRUE(plan.has_value());
    const Pairs expected = static_pairs(packed);
    Pairs by_query, by_key;
    std::map<std::pair<int, int>, std::pair<int, int>> places_by_query, places_by_key;
    expect_side(*plan, plan->query_tiles, plan->query_columns, true, by_query, places_by_query);
    expect_side(*plan, plan->key_tiles, plan->key_columns, false, by_key, places_by_key);
    ASSERT_EQ(by_query, expected);
    ASSERT_EQ(by_key, expected);
    ASSERT_EQ(places_by_query, places_by_key);

    // A key may be selected, through its node's bit, exactly where no range shows it.
    for (std::size_t i = 0; i < packed.slices.size(); ++i) {
      if (!plan->masks[i]) continue;
      const BatchSequence& sequence = packed.batch.sequences[i];
      const Layout& layout = *sequence.layout;
      const MaskPlan& masks = *plan->masks[i];
      const BatchSlice& suffix = sequence.slices.back();
      const std::int64_t context = sequence.slices.front().row;
      std::vector<std::int32_t> nodes(masks.key_nodes.size(), -1);
      for (std::int64_t chunk = 0; chunk < layout.num_nodes(0); ++chunk) {
        for (std::int64_t j = layout.children(0, chunk).begin; j < layout.children(0, chunk).end;
             ++j)
          nodes[row_of(sequence, kRawLevel, j) - context] = static_cast<std::int32_t>(chunk);
      }
      for (int level = 0; level < layout.num_levels(); ++level) {
        for (std::int64_t node = 0; node < layout.num_nodes(level); ++node)
          nodes[row_of(sequence, level, node) - context] =
              masks.first_bit[level + 1] + static_cast<std::int32_t>(node);
      }
      for (std::size_t key = 0; key < nodes.size(); ++key) {
        const bool is_shown =
            expected.contains({suffix.row, context + static_cast<std::int64_t>(key)});
        ASSERT_EQ(masks.key_nodes[key], is_shown ? -1 : nodes[key]);
        ASSERT_TRUE(places_by_key.contains(
            {static_cast<int>(suffix.row), static_cast<int>(context) + static_cast<int>(key)}));
      }
    }
  }
}

TEST(PackedPlan, RefusesQueriesThatDifferInWhatTheyAlwaysSee) {
  core::Rng rng(42);
  Layout layout = build({ChunkSizes{{8}}}, {std::vector<std::uint8_t>(100, 1)});
  PackedBatch packed;
  BatchSequence sequence;
  sequence.layout = &layout;
  sequence.slices = {{{kRawLevel, 0, 100}, 0, false}, {{kRawLevel, 100, 10}, 100, true}};
  packed.batch.sequences.push_back(sequence);
  StaticRule window;
  window.kind = StaticRule::Kind::window;
  window.window = 20;
  const BatchSlice& suffix = packed.batch.sequences[0].slices[1];
  packed.slices.push_back(
      {{&suffix, std::make_shared<const RangeTable>(visible_ranges(layout, window, suffix.entries)),
        true}});
  EXPECT_FALSE(plan_packed(packed.batch, packed.slices).has_value());
}

TEST(PackedPlan, RefusesMoreNodesThanTheKernelHasBitsFor) {
  const auto is_planned = [](std::int64_t num_chunks) {
    const std::int64_t num_raw = 2 * num_chunks;
    const Layout layout =
        build({ChunkSizes{{2}}, 0}, {std::vector<std::uint8_t>(num_raw, 1)});  // no sinks
    EXPECT_EQ(layout.num_nodes(0), num_chunks);
    PackedBatch packed;
    BatchSequence sequence;
    sequence.layout = &layout;
    sequence.slices = {{{kRawLevel, 0, num_raw}, 0, false},
                       {{0, 0, num_chunks}, num_raw, false},
                       {{kRawLevel, num_raw, 3}, num_raw + num_chunks, true}};
    packed.batch.sequences.push_back(sequence);
    StaticRule rule;
    rule.kind = StaticRule::Kind::local;
    const BatchSlice& suffix = packed.batch.sequences[0].slices[2];
    packed.slices.push_back(
        {{&suffix, std::make_shared<const RangeTable>(visible_ranges(layout, rule, suffix.entries)),
          true}});
    return plan_packed(packed.batch, packed.slices).has_value();
  };
  EXPECT_TRUE(is_planned(kernels::kMaxSelectBits / 2));  // chunks and their gists
  EXPECT_FALSE(is_planned(kernels::kMaxSelectBits / 2 + 1));
}

}  // namespace
}  // namespace gsa::attention
