#include "attention/visible.h"

#include <gtest/gtest.h>

#include <set>

#include "attention/random_layout.h"

namespace gsa::attention {
namespace {

/// Keys of the gist mask by testing every pair.
std::set<std::pair<int, std::int64_t>> allowed_keys(const Layout& layout, int level,
                                                    std::int64_t query, std::int64_t num_raw) {
  std::set<std::pair<int, std::int64_t>> keys;
  for (int key_level = kRawLevel; key_level < layout.num_levels(); ++key_level) {
    const std::int64_t count = key_level == kRawLevel ? num_raw : layout.num_nodes(key_level);
    for (std::int64_t key = 0; key < count; ++key) {
      if (gist_mask_allows(layout, level, query, key_level, key)) keys.insert({key_level, key});
    }
  }
  return keys;
}

std::set<std::pair<int, std::int64_t>> keys_in(const RangeTable& table, std::int64_t query) {
  std::set<std::pair<int, std::int64_t>> keys;
  std::int64_t count = 0;
  for (const RangeColumn& column : table.columns) {
    for (std::int64_t key = column.begin[query]; key < column.end[query]; ++key) {
      keys.insert({column.level, key});
      ++count;
    }
  }
  EXPECT_EQ(count, static_cast<std::int64_t>(keys.size())) << "ranges overlap";
  EXPECT_EQ(count, table.num_visible(query));
  return keys;
}

TEST(VisibleRanges, EqualTheGistMaskPairByPair) {
  core::Rng rng(11);
  for (int round = 0; round < 3000; ++round) {
    const LayoutOptions options = random_options(rng, 4);
    Layout layout = build(options, random_pieces(rng, 3, 24));
    if (rng.below(2) == 0) {  // an open piece behind the closed ones
      const auto open = random_pieces(rng, 1, 24)[0];
      layout.append(open);
    }
    const std::int64_t num_raw = layout.num_raw() + 3;  // and a suffix
    StaticRule rule;
    rule.kind = StaticRule::Kind::gist;
    for (int level = kRawLevel; level < layout.num_levels(); ++level) {
      const std::int64_t total = level == kRawLevel ? num_raw : layout.num_nodes(level);
      const std::int64_t begin = total == 0 ? 0 : rng.below(static_cast<std::uint32_t>(total));
      const RangeTable table = visible_ranges(layout, rule, {level, begin, total - begin});
      for (std::int64_t i = 0; i < total - begin; ++i) {
        ASSERT_EQ(keys_in(table, i), allowed_keys(layout, level, begin + i, num_raw))
            << "round " << round << ", chunks " << options.chunk_sizes.to_string() << ", level "
            << level << ", query " << begin + i;
      }
    }
  }
}

TEST(VisibleRanges, SimplerRulesAreTheirDefinition) {
  core::Rng rng(12);
  for (int round = 0; round < 500; ++round) {
    const Layout layout = build(random_options(rng, 3), random_pieces(rng, 2, 40));
    const std::int64_t sinks = layout.options().num_sinks, window = 1 + rng.below(20);
    const std::int64_t n = layout.num_raw() + 4;
    const std::int64_t local_begin =
        layout.section_begin(0, layout.num_nodes(0) - layout.options().num_local_chunks);
    const auto rule = [&](StaticRule::Kind kind) {
      StaticRule result;
      result.kind = kind;
      result.window = window;
      return visible_ranges(layout, result, {kRawLevel, 0, n});
    };
    const RangeTable full = rule(StaticRule::Kind::full), slide = rule(StaticRule::Kind::window),
                     local = rule(StaticRule::Kind::local), suffix = rule(StaticRule::Kind::suffix);
    for (std::int64_t i = 0; i < n; ++i) {
      std::set<std::pair<int, std::int64_t>> all, near, tail, said;
      for (std::int64_t j = 0; j <= i; ++j) {
        all.insert({kRawLevel, j});
        if (j < sinks || j + window > i) near.insert({kRawLevel, j});
        if (j < sinks || j >= local_begin) tail.insert({kRawLevel, j});
        if (j < sinks || j >= layout.num_raw()) said.insert({kRawLevel, j});
      }
      ASSERT_EQ(keys_in(full, i), all);
      ASSERT_EQ(keys_in(slide, i), near);
      if (i >= layout.num_raw()) {
        ASSERT_EQ(keys_in(local, i), tail);
        ASSERT_EQ(keys_in(suffix, i), said);
      }
    }
  }
}

TEST(VisibleRanges, BranchesSeeTheContextAndThemselves) {
  core::Rng rng(13);
  for (int round = 0; round < 300; ++round) {
    const Layout layout = build(random_options(rng, 3), random_pieces(rng, 2, 40));
    const std::int64_t num_raw = layout.num_raw();
    StaticRule rule;
    rule.kind = static_cast<StaticRule::Kind>(rng.below(5));
    rule.window = 1 + rng.below(20);
    if (num_raw < layout.options().num_sinks) continue;  // sinks would lie in every branch
    QuerySlice branches{kRawLevel, num_raw, 0, {}};
    for (int branch = 0; branch < 3; ++branch) {
      const std::int64_t begin = num_raw + branches.count, len = 1 + rng.below(9);
      branches.count += len;
      branches.branch_begins.insert(branches.branch_begins.end(), len, begin);
    }
    const RangeTable table = visible_ranges(layout, rule, branches);
    for (std::int64_t t = 0; t < branches.count; ++t) {
      const std::int64_t begin = branches.branch_begins[t], offset = num_raw + t - begin;
      const RangeTable alone = visible_ranges(layout, rule, {kRawLevel, num_raw + offset, 1});
      std::set<std::pair<int, std::int64_t>> expected;
      for (const auto& [level, key] : keys_in(alone, 0)) {
        const bool is_own = level == kRawLevel && key >= num_raw;
        expected.insert({level, is_own ? key - num_raw + begin : key});
      }
      ASSERT_EQ(keys_in(table, t), expected) << "round " << round << ", query " << t;
    }
  }
}

}  // namespace
}  // namespace gsa::attention
