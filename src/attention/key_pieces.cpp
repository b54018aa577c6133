#include "attention/key_pieces.h"

#include <algorithm>

namespace gsa::attention {
namespace {

// Queries per block. Blocks of gists are smaller: consecutive gists see raw ranges a whole chunk
// apart, so a large block would look at many keys that most of its queries may not attend. Where
// every query sees one key more than the one before, nothing is lost in large blocks.
constexpr std::int64_t kRawBlock = 128;
constexpr std::int64_t kGistBlock = 32;
constexpr std::int64_t kCausalBlock = 512;
constexpr std::int64_t kFirstBlock = 2048;  // where nothing lies before
// Shorter runs are cheaper inside the loose part than as a call of their own.
constexpr std::int64_t kMinDense = 128;

/// Whether all ranges of [first, last) begin alike and each ends one key after the one before.
bool is_causal(const RangeColumn& column, std::int64_t first, std::int64_t last) {
  for (std::int64_t t = first; t < last; ++t) {
    if (column.begin[t] != column.begin[first]) return false;
    if (column.end[t] != column.end[first] + t - first) return false;
  }
  return column.end[first] > column.begin[first];
}

void add_shared(const RangeColumn& column, Range keys, QueryBlock& block) {
  if (keys.size() == 0) return;
  auto& pieces = keys.size() < kMinDense ? block.loose : block.dense;
  pieces.push_back({column.level, keys, nullptr});
}

void add_column(const RangeColumn& column, QueryBlock& block) {
  const auto first = block.begin, last = block.begin + block.count;
  if (block.count > 1 && is_causal(column, first, last)) {
    const std::int64_t own = column.end[first] - 1;
    add_shared(column, {column.begin[first], own}, block);
    block.causal.push_back({column.level, {own, own + block.count}, &column});
    return;
  }
  const auto [low_begin, high_begin] =
      std::minmax_element(column.begin.begin() + first, column.begin.begin() + last);
  const auto [low_end, high_end] =
      std::minmax_element(column.end.begin() + first, column.end.begin() + last);
  const Range hull{*low_begin, *high_end};
  const Range common{*high_begin, *low_end};
  if (hull == common || common.size() >= kMinDense) {
    add_shared(column, common, block);
    for (const Range& side : {Range{hull.begin, common.begin}, Range{common.end, hull.end}}) {
      if (side.size() > 0) block.loose.push_back({column.level, side, &column});
    }
  } else if (hull.size() > 0) {
    block.loose.push_back({column.level, hull, &column});
  }
}

std::int64_t block_len(const RangeTable& table, Pass pass) {
  if (table.queries.level != kRawLevel || table.queries.count == 0) return kGistBlock;
  const bool all_causal = std::ranges::all_of(table.columns, [&](const RangeColumn& column) {
    return is_causal(column, 0, table.queries.count);
  });
  if (!all_causal) return kRawBlock;
  // With nothing before the slice one causal call does it all; backward holds a block's scores.
  const bool is_alone =
      pass == Pass::forward && std::ranges::all_of(table.columns, [](const RangeColumn& column) {
        return column.begin[0] + 1 == column.end[0];
      });
  return is_alone ? kFirstBlock : kCausalBlock;
}

}  // namespace

std::vector<QueryBlock> plan_blocks(const RangeTable& table, Pass pass) {
  const std::int64_t len = block_len(table, pass);
  std::vector<QueryBlock> blocks;
  for (std::int64_t begin = 0; begin < table.queries.count; begin += len) {
    QueryBlock block{begin, std::min(len, table.queries.count - begin), {}, {}, {}};
    for (const RangeColumn& column : table.columns) add_column(column, block);
    blocks.push_back(std::move(block));
  }
  return blocks;
}

std::vector<std::vector<KeyPiece>> group_pieces(const std::vector<KeyPiece>& pieces,
                                                std::int64_t max_keys) {
  std::vector<std::vector<KeyPiece>> groups;
  std::int64_t room = 0;
  for (KeyPiece piece : pieces) {
    while (piece.keys.size() > 0) {
      if (room == 0) {
        groups.emplace_back();
        room = max_keys;
      }
      const std::int64_t taken = std::min(room, piece.keys.size());
      groups.back().push_back(
          {piece.level, {piece.keys.begin, piece.keys.begin + taken}, piece.column});
      piece.keys.begin += taken;
      room -= taken;
    }
  }
  return groups;
}

std::vector<KvSpan> spans_in(const KvArena& arena, Range range) {
  std::vector<KvSpan> parts;
  for (const KvSpan& span : arena.spans) {
    const std::int64_t begin = std::max(range.begin, span.begin);
    const std::int64_t end = std::min(range.end, span.begin + span.len());
    if (begin >= end) continue;
    parts.push_back({span.k.narrow(1, begin - span.begin, end - begin),
                     span.v.narrow(1, begin - span.begin, end - begin), begin});
  }
  return parts;
}

}  // namespace gsa::attention
