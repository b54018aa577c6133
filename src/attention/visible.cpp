#include "attention/visible.h"

#include <algorithm>
#include <utility>

#include "attention/selection.h"
#include "core/error.h"

namespace gsa::attention {
namespace {

void push(RangeColumn& column, std::int64_t begin, std::int64_t end) {
  column.begin.push_back(std::min(begin, end));
  column.end.push_back(end);
}

/// Sinks and a local range that may overlap them, as two disjoint ranges.
void push_raw(RangeColumn& sinks, RangeColumn& local, std::int64_t num_sinks, std::int64_t begin,
              std::int64_t end) {
  push(sinks, 0, std::min({num_sinks, begin, end}));
  push(local, begin, end);
}

/// First visible key of `level`: the top level is seen from its start, others from N sections back.
std::int64_t gists_begin(const Layout& layout, int level, std::int64_t own_section) {
  if (level + 1 == layout.num_levels()) return 0;
  return layout.section_begin(level + 1, own_section - layout.options().num_local_chunks);
}

/// Levels of gists that raw queries see.
int num_visible_levels(const Layout& layout, const StaticRule& rule) {
  using Kind = StaticRule::Kind;
  const bool sees_gists = (rule.kind == Kind::gist && rule.gists_visible) ||
                          (rule.kind == Kind::local && rule.all_gists);
  return sees_gists ? layout.num_levels() : 0;
}

void raw_rows(const Layout& layout, const StaticRule& rule, RangeTable& table) {
  const QuerySlice& queries = table.queries;
  const bool has_branches = !queries.branch_begins.empty();
  RangeColumn sinks, local, branch;
  std::vector<RangeColumn> gists(num_visible_levels(layout, rule));
  for (int level = 0; level < static_cast<int>(gists.size()); ++level) gists[level].level = level;

  for (std::int64_t t = 0; t < queries.count; ++t) {
    // Where the query would stand if its branch followed the context directly.
    std::int64_t i = queries.begin + t;
    if (has_branches) i = layout.num_raw() + i - queries.branch_begins[t];
    const RowRanges row = visible_ranges_of_row(layout, rule, i);
    if (has_branches) {
      const std::int64_t shift = queries.branch_begins[t] - layout.num_raw();
      const std::int64_t begin = row.local.begin;
      push_raw(sinks, local, layout.options().num_sinks, begin, layout.num_raw());
      push(branch, std::max(begin, layout.num_raw()) + shift, i + 1 + shift);
    } else {
      push(sinks, row.sinks.begin, row.sinks.end);
      push(local, row.local.begin, row.local.end);
    }
    for (RangeColumn& column : gists)
      push(column, row.gists[column.level].begin, row.gists[column.level].end);
  }
  if (rule.kind != StaticRule::Kind::full) table.columns.push_back(std::move(sinks));
  table.columns.push_back(std::move(local));
  if (has_branches) table.columns.push_back(std::move(branch));
  for (RangeColumn& column : gists) table.columns.push_back(std::move(column));
}

void gist_rows(const Layout& layout, RangeTable& table) {
  const auto& options = layout.options();
  const QuerySlice& queries = table.queries;
  const int p = queries.level;
  RangeColumn sinks, local;
  std::vector<RangeColumn> gists;
  for (int level = std::max(0, p - 1); level < layout.num_levels(); ++level) {
    gists.push_back({level, {}, {}});
  }
  for (std::int64_t x = queries.begin; x < queries.begin + queries.count; ++x) {
    const std::int64_t raw_end = layout.position(p, x) + 1;
    if (p == 0) {
      push_raw(sinks, local, options.num_sinks,
               layout.section_begin(0, x - options.num_local_chunks), raw_end);
    } else {
      push(sinks, 0, std::min<std::int64_t>(options.num_sinks, raw_end));
    }
    for (RangeColumn& column : gists) {
      const bool is_top = column.level + 1 == layout.num_levels();
      const std::int64_t section = is_top ? 0 : layout.nodes_before_node(column.level + 1, p, x);
      const std::int64_t own = column.level == p ? 1 : 0;
      push(column, gists_begin(layout, column.level, section),
           layout.nodes_before_node(column.level, p, x) + own);
    }
  }
  table.columns.push_back(std::move(sinks));
  if (p == 0) table.columns.push_back(std::move(local));
  for (RangeColumn& column : gists) table.columns.push_back(std::move(column));
}

/// Place in the interleaved stream of method §1.2: (last raw token, level), compared in this order.
std::pair<std::int64_t, int> stream_place(const Layout& layout, int level, std::int64_t idx) {
  return {level == kRawLevel ? idx : layout.position(level, idx), level};
}

/// u_level(t), by counting. u of the level above the top is 0.
std::int64_t count_before(const Layout& layout, int level, std::pair<std::int64_t, int> place) {
  std::int64_t count = 0;
  if (level >= layout.num_levels()) return count;
  while (count < layout.num_nodes(level) && stream_place(layout, level, count) < place) ++count;
  return count;
}

}  // namespace

std::int64_t RangeTable::num_visible(std::int64_t query) const {
  std::int64_t total = 0;
  for (const RangeColumn& column : columns) total += column.end[query] - column.begin[query];
  return total;
}

std::int64_t RowRanges::num_visible() const {
  std::int64_t total = sinks.size() + local.size();
  for (int level = 0; level < num_gist_levels; ++level) total += gists[level].size();
  return total;
}

RowRanges visible_ranges_of_row(const Layout& layout, const StaticRule& rule,
                                std::int64_t raw_idx) {
  using Kind = StaticRule::Kind;
  const auto& options = layout.options();
  const std::int64_t i = raw_idx;
  RowRanges row;
  std::int64_t begin = 0;
  if (rule.kind == Kind::window) begin = std::max<std::int64_t>(0, i + 1 - rule.window);
  if (rule.kind == Kind::suffix) begin = layout.num_raw();
  if (layout.num_levels() > 0 && (rule.kind == Kind::gist || rule.kind == Kind::local)) {
    begin = layout.section_begin(0, layout.nodes_before_raw(0, i) - options.num_local_chunks);
  }
  row.sinks = {0, std::min<std::int64_t>({options.num_sinks, begin, i + 1})};
  row.local = {std::min(begin, i + 1), i + 1};
  row.num_gist_levels = num_visible_levels(layout, rule);
  for (int level = 0; level < row.num_gist_levels; ++level) {
    const bool is_top = level + 1 == layout.num_levels();
    const std::int64_t section = is_top ? 0 : layout.nodes_before_raw(level + 1, i);
    const std::int64_t end = layout.nodes_before_raw(level, i);
    const std::int64_t first = rule.all_gists ? 0 : gists_begin(layout, level, section);
    row.gists[level] = {std::min(first, end), end};
  }
  return row;
}

RangeTable visible_ranges(const Layout& layout, const StaticRule& rule, const QuerySlice& queries) {
  RangeTable table{queries, {}};
  if (queries.level == kRawLevel) {
    raw_rows(layout, rule, table);
  } else if (rule.kind == StaticRule::Kind::gist) {
    gist_rows(layout, table);
  } else {
    core::internal_error("visible_ranges: gist queries follow the gist rule only");
  }
  return table;
}

bool gist_mask_allows(const Layout& layout, int query_level, std::int64_t query, int key_level,
                      std::int64_t key) {
  const auto& options = layout.options();
  const auto i = stream_place(layout, query_level, query);
  const auto j = stream_place(layout, key_level, key);
  if (j > i) return false;
  if (key_level == kRawLevel && key < options.num_sinks) return true;
  if (query_level > key_level + 1) return false;
  const int section_level = key_level + 1;
  return count_before(layout, section_level, i) - count_before(layout, section_level, j) <=
         options.num_local_chunks;
}

bool VisibleSet::has_selection() const {
  if (unfolded.defined() || tokens.defined()) return true;
  return std::any_of(gists.begin(), gists.end(),
                     [](const at::Tensor& ids) { return ids.defined(); });
}

}  // namespace gsa::attention
