#include "attention/key_pieces.h"

#include <algorithm>

namespace gsa::attention {
namespace {

// Queries per block. Blocks of gists are smaller: consecutive gists see raw ranges a whole chunk
// apart, so a large block would look at many keys that most of its queries may not attend.
constexpr std::int64_t kRawBlock = 128;
constexpr std::int64_t kGistBlock = 32;
// Shorter runs are cheaper inside the loose part than as a call of their own.
constexpr std::int64_t kMinDense = 128;

void add_column(const RangeColumn& column, QueryBlock& block) {
  const auto first = block.begin, last = block.begin + block.count;
  const auto [low_begin, high_begin] =
      std::minmax_element(column.begin.begin() + first, column.begin.begin() + last);
  const auto [low_end, high_end] =
      std::minmax_element(column.end.begin() + first, column.end.begin() + last);
  const Range hull{*low_begin, *high_end};
  const Range common{*high_begin, *low_end};
  if (hull.size() == 0) return;
  if (common.size() < kMinDense) {
    const bool is_uniform = hull == common;
    block.loose.push_back({column.level, hull, is_uniform ? nullptr : &column});
    return;
  }
  block.dense.push_back({column.level, common, nullptr});
  for (const Range& side : {Range{hull.begin, common.begin}, Range{common.end, hull.end}}) {
    if (side.size() > 0) block.loose.push_back({column.level, side, &column});
  }
}

}  // namespace

std::vector<QueryBlock> plan_blocks(const RangeTable& table) {
  const std::int64_t block_len = table.queries.level == kRawLevel ? kRawBlock : kGistBlock;
  std::vector<QueryBlock> blocks;
  for (std::int64_t begin = 0; begin < table.queries.count; begin += block_len) {
    QueryBlock block{begin, std::min(block_len, table.queries.count - begin), {}, {}};
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
