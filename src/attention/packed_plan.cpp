#include "attention/packed_plan.h"

#include <algorithm>
#include <iterator>
#include <limits>

namespace gsa::attention {
namespace {

using kernels::PackedColumn;
using kernels::PackedTile;
using kernels::RowRange;

constexpr std::int32_t kTile = kernels::kPackedTile;

std::int32_t narrow(std::int64_t value) { return static_cast<std::int32_t>(value); }

template <typename T>
std::int32_t size_of(const std::vector<T>& values) {
  return narrow(std::ssize(values));
}

/// A column of a slice, restricted to one slice of keys and counted in rows of the batch.
struct RowColumn {
  std::int32_t query_begin, num_queries;
  std::int32_t bounds;  ///< index of the first query's range
};

class SequencePlanner {
 public:
  SequencePlanner(const BatchSequence& sequence, const std::vector<PlannedSlice>& slices,
                  HostPackedPlan& plan)
      : sequence_(sequence), slices_(slices), plan_(plan) {}

  /// Adds the sequence's tiles to the plan; false if it cannot be packed.
  bool run() {
    find_context();
    tile_keys();
    for (const PlannedSlice& planned : slices_) add_bounds(planned);
    for (const PlannedSlice& planned : slices_) tile_queries(planned);
    for (const PlannedSlice& planned : slices_) {
      if (planned.selects && !plan_masks(planned)) return false;
    }
    emit_key_tiles();
    return true;
  }

 private:
  void find_context() {
    context_begin_ = std::numeric_limits<std::int32_t>::max();
    for (const BatchSlice& slice : sequence_.slices) {
      if (slice.is_suffix) continue;
      context_begin_ = std::min(context_begin_, narrow(slice.row));
      context_end_ = std::max(context_end_, narrow(slice.row + slice.entries.count));
    }
    context_begin_ = std::min(context_begin_, context_end_);
  }

  void tile_keys() {
    const auto add = [&](std::int32_t begin, std::int32_t end) {
      for (; begin < end; begin += kTile) {
        key_tile_begins_.push_back(begin);
        key_tile_ends_.push_back(std::min(begin + kTile, end));
      }
    };
    add(context_begin_, context_end_);
    for (const BatchSlice& slice : sequence_.slices) {
      if (slice.is_suffix) add(narrow(slice.row), narrow(slice.row + slice.entries.count));
    }
    opposite_.resize(key_tile_begins_.size());
  }

  /// Ranges of a slice's columns in rows, one list per column and slice of keys that it touches.
  void add_bounds(const PlannedSlice& planned) {
    const RangeTable& table = *planned.ranges;
    for (const RangeColumn& column : table.columns) {
      for (const BatchSlice& keys : sequence_.slices) {
        const auto& [level, first, count, unused] = keys.entries;
        if (level != column.level || count == 0) continue;
        const std::int32_t bounds = size_of(plan_.bounds);
        bool any = false;
        for (std::int64_t t = 0; t < table.queries.count; ++t) {
          const std::int64_t begin = std::clamp(column.begin[t], first, first + count);
          const std::int64_t end = std::clamp(column.end[t], first, first + count);
          const bool is_empty = begin >= end;
          any = any || !is_empty;
          plan_.bounds.push_back(is_empty ? RowRange{0, 0}
                                          : RowRange{narrow(begin - first + keys.row),
                                                     narrow(end - first + keys.row)});
        }
        if (any) {
          columns_.push_back({narrow(planned.slice->row), narrow(table.queries.count), bounds});
        } else {
          plan_.bounds.resize(bounds);
        }
      }
    }
  }

  void tile_queries(const PlannedSlice& planned) {
    const auto first = narrow(planned.slice->row);
    const auto end = first + narrow(planned.slice->entries.count);
    for (std::int32_t row = first; row < end; row += kTile) {
      const std::int32_t count = std::min(kTile, end - row);
      const std::int32_t column_begin = size_of(plan_.query_columns);
      for (const RowColumn& column : columns_) {
        if (column.query_begin == first) add_query_column(column, row, count);
      }
      if (planned.selects && context_begin_ < context_end_) {
        plan_.query_columns.push_back(
            {context_begin_, context_end_, -1, plan_.num_mask_rows + row - first, 0});
      }
      plan_.query_tiles.push_back({row, count, column_begin, size_of(plan_.query_columns)});
    }
  }

  /// The keys that a tile of queries sees in one column, and the other way round.
  void add_query_column(const RowColumn& column, std::int32_t row, std::int32_t count) {
    const std::int32_t offset = row - column.query_begin;
    std::int32_t begin = std::numeric_limits<std::int32_t>::max(), end = 0;
    for (std::int32_t i = 0; i < count; ++i) {
      const RowRange range = plan_.bounds[column.bounds + offset + i];
      if (range.begin >= range.end) continue;
      begin = std::min(begin, range.begin);
      end = std::max(end, range.end);
    }
    if (begin >= end) return;
    plan_.query_columns.push_back({begin, end, column.bounds + offset, 0, 0});
    auto tile = std::upper_bound(key_tile_begins_.begin(), key_tile_begins_.end(), begin) -
                key_tile_begins_.begin() - 1;
    const auto num_tiles = static_cast<std::ptrdiff_t>(key_tile_begins_.size());
    for (; tile < num_tiles && key_tile_begins_[tile] < end; ++tile) {
      add_opposite(opposite_[tile], {row, row + count, column.bounds + offset, 0, 0});
    }
  }

  /// Neighbouring query tiles of one column become one run.
  static void add_opposite(std::vector<PackedColumn>& list, const PackedColumn& added) {
    const auto continues = [&](const PackedColumn& run) {
      return run.end == added.begin && run.bounds + run.end - run.begin == added.bounds;
    };
    const auto run = std::find_if(list.begin(), list.end(), continues);
    if (run != list.end()) {
      run->end = added.end;
    } else {
      list.push_back(added);
    }
  }

  bool plan_masks(const PlannedSlice& planned) {
    const Layout& layout = *sequence_.layout;
    MaskPlan masks;
    masks.first_mask_row = plan_.num_mask_rows;
    masks.num_queries = narrow(planned.slice->entries.count);
    masks.num_bits = narrow(layout.num_levels() > 0 ? layout.num_nodes(0) : 0);
    masks.first_bit.push_back(0);
    for (int level = 0; level < layout.num_levels(); ++level) {
      masks.first_bit.push_back(masks.num_bits);
      masks.num_bits += narrow(layout.num_nodes(level));
    }
    if (masks.num_bits > kernels::kMaxSelectBits) return false;
    masks.key_nodes = nodes_of_rows(layout, masks);
    if (!hide_static(*planned.ranges, masks.key_nodes)) return false;
    const std::int32_t num_words = (context_end_ - context_begin_ + kTile - 1) / kTile;
    for (std::int32_t word = 0; word < num_words; ++word) {
      const auto first = narrow(planned.slice->row);
      opposite_[word].push_back({first, first + masks.num_queries, -1, masks.first_mask_row, word});
    }
    plan_.num_mask_rows += masks.num_queries;
    plan_.mask_words = std::max(plan_.mask_words, num_words);
    plan_.masks.back() = std::move(masks);
    return true;
  }

  std::vector<std::int32_t> nodes_of_rows(const Layout& layout, const MaskPlan& masks) const {
    std::vector<std::int32_t> nodes(context_end_ - context_begin_, -1);
    for (const BatchSlice& slice : sequence_.slices) {
      if (slice.is_suffix) continue;
      const auto& [level, first, count, unused] = slice.entries;
      std::int32_t* const out = nodes.data() + (slice.row - context_begin_);
      if (level != kRawLevel) {
        for (std::int64_t i = 0; i < count; ++i)
          out[i] = masks.first_bit[level + 1] + narrow(first + i);
        continue;
      }
      for (std::int64_t chunk = 0; chunk < layout.num_nodes(0); ++chunk) {
        const Range raw = layout.children(0, chunk);
        for (std::int64_t i = std::max(raw.begin, first); i < std::min(raw.end, first + count); ++i)
          out[i - first] = narrow(chunk);
      }
    }
    return nodes;
  }

  /// Keys that the static ranges show need no bit. False if the queries differ in them.
  bool hide_static(const RangeTable& table, std::vector<std::int32_t>& nodes) const {
    for (const RangeColumn& column : table.columns) {
      for (const BatchSlice& keys : sequence_.slices) {
        if (keys.is_suffix || keys.entries.level != column.level) continue;
        const std::int64_t first = keys.entries.begin, last = first + keys.entries.count;
        const auto inside = [&](std::int64_t t) {
          return Range{std::clamp(column.begin[t], first, last),
                       std::clamp(column.end[t], first, last)};
        };
        const Range shown = inside(0);
        for (std::int64_t t = 1; t < table.queries.count; ++t) {
          if (!(inside(t) == shown)) return false;
        }
        const std::int64_t shift = keys.row - first - context_begin_;
        for (std::int64_t i = shown.begin; i < shown.end; ++i) nodes[i + shift] = -1;
      }
    }
    return true;
  }

  void emit_key_tiles() {
    for (std::size_t i = 0; i < key_tile_begins_.size(); ++i) {
      const std::int32_t begin = size_of(plan_.key_columns);
      plan_.key_columns.insert(plan_.key_columns.end(), opposite_[i].begin(), opposite_[i].end());
      plan_.key_tiles.push_back({key_tile_begins_[i], key_tile_ends_[i] - key_tile_begins_[i],
                                 begin, size_of(plan_.key_columns)});
    }
  }

  const BatchSequence& sequence_;
  const std::vector<PlannedSlice>& slices_;
  HostPackedPlan& plan_;

  std::int32_t context_begin_ = 0, context_end_ = 0;
  std::vector<RowColumn> columns_;
  std::vector<std::int32_t> key_tile_begins_, key_tile_ends_;
  std::vector<std::vector<PackedColumn>> opposite_;  // of every key tile
};

/// Tiles with much opposite them come first, so that no block starts a long list at the end.
void sort_by_work(std::vector<PackedTile>& tiles, const std::vector<PackedColumn>& columns) {
  const auto work = [&](const PackedTile& tile) {
    std::int64_t rows = 0;
    for (std::int32_t i = tile.column_begin; i < tile.column_end; ++i)
      rows += columns[i].end - columns[i].begin;
    return rows;
  };
  std::stable_sort(tiles.begin(), tiles.end(),
                   [&](const PackedTile& a, const PackedTile& b) { return work(a) > work(b); });
}

}  // namespace

std::optional<HostPackedPlan> plan_packed(const Batch& batch,
                                          const std::vector<std::vector<PlannedSlice>>& slices) {
  HostPackedPlan plan;
  for (std::size_t i = 0; i < slices.size(); ++i) {
    plan.masks.emplace_back();
    if (!SequencePlanner{batch.sequences[i], slices[i], plan}.run()) return std::nullopt;
  }
  sort_by_work(plan.query_tiles, plan.query_columns);
  sort_by_work(plan.key_tiles, plan.key_columns);
  return plan;
}

}  // namespace gsa::attention
