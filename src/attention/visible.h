#pragma once

#include <ATen/core/Tensor.h>

#include <array>
#include <cstdint>
#include <memory>
#include <vector>

#include "attention/layout.h"

namespace gsa::attention {

/// The part of a visible set that follows from the layout alone.
struct StaticRule {
  enum class Kind {
    full,    ///< every raw token up to the query
    gist,    ///< the gist mask (method §2)
    local,   ///< sinks, local chunks and the open tail: what a selecting query always sees (method
             ///< §3.4)
    window,  ///< sinks and the last `window` raw tokens
    suffix,  ///< sinks and the raw tokens behind the context
  };
  Kind kind = Kind::full;
  std::int64_t window = 0;
  bool gists_visible = true;  ///< `gist`: false hides every gist key from raw queries
  bool all_gists = false;  ///< `local`: every gist of every level is visible (method §3.4, variant)

  bool operator==(const StaticRule&) const = default;
};

/// Consecutive queries of one arena of one sequence.
struct QuerySlice {
  int level = kRawLevel;
  std::int64_t begin = 0;  ///< index of the first query in its arena
  std::int64_t count = 0;
  /// Suffixes of one context that do not see each other lie in the raw arena one after the other:
  /// per query, the raw index at which its suffix begins. Empty: the raw tokens are one text.
  std::vector<std::int64_t> branch_begins{};  // [count] or empty
};

/// One visible range per query of a slice, in the arena of `level`.
struct RangeColumn {
  int level = kRawLevel;
  std::vector<std::int64_t> begin, end;  // [count]; begin <= end
};

/// Visible ranges of every query of a slice: at most two raw columns, a third for what queries in a
/// branch see of it, and one per gist level. The ranges of one query are disjoint (visible sets are
/// sets).
struct RangeTable {
  QuerySlice queries;
  std::vector<RangeColumn> columns;

  /// Visible keys of one query, all columns.
  std::int64_t num_visible(std::int64_t query) const;
};

/// Evaluates the rows of method §2's table (or the simpler rules) for a slice. O(count log n).
/// Gists later than the query are never in a range.
RangeTable visible_ranges(const Layout& layout, const StaticRule& rule, const QuerySlice& queries);

/// Visible ranges of one raw query: disjoint, empty where nothing is visible.
struct RowRanges {
  Range sinks, local;                     ///< raw
  std::array<Range, kMaxLevels> gists{};  ///< [num_gist_levels]
  int num_gist_levels = 0;                ///< 0: no gist is visible

  /// Visible keys.
  std::int64_t num_visible() const;
};

/// The row of `visible_ranges` for raw query `raw_idx`, without a table. O(levels log n).
RowRanges visible_ranges_of_row(const Layout& layout, const StaticRule& rule, std::int64_t raw_idx);

/// The mask rule of method §2, pair by pair: may the query attend the key? The definition that
/// `visible_ranges` is tested against.
bool gist_mask_allows(const Layout& layout, int query_level, std::int64_t query, int key_level,
                      std::int64_t key);

/// What the queries of one slice may attend in one layer.
struct VisibleSet {
  std::shared_ptr<const RangeTable> ranges;  ///< the static part
  const Layout* layout = nullptr;

  /// Chosen ids per query and KV head, int64 [T, H_kv, K], ascending and unique, padded with -1 at
  /// the end. Rows of equal width need no prefix sum and no host synchronisation. Undefined tensors
  /// select nothing.
  at::Tensor unfolded;            ///< chunks whose raw tokens are visible
  std::vector<at::Tensor> gists;  ///< per level: gists that are themselves visible
  at::Tensor tokens;              ///< raw tokens (page-free policies)

  bool has_selection() const;
};

/// Keys that each query attends, per KV head: int64 [T, H_kv]. Every key counts once, however many
/// parts of the set name it.
at::Tensor num_visible(const VisibleSet& visible, std::int64_t num_kv_heads);

}  // namespace gsa::attention
