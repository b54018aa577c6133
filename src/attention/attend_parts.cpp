#include "attention/attend_parts.h"

#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/index_select.h>

#include <algorithm>
#include <limits>

#include "attention/selection.h"

namespace gsa::attention {
namespace {
// Bytes of gathered f32 keys and values that may exist at once.
constexpr std::int64_t kGatherBytes = 48 << 20;
}  // namespace

KeyTile load_tile(const KvArenas& arenas, const std::vector<KeyPiece>& pieces) {
  std::vector<at::Tensor> k, v;
  for (const KeyPiece& piece : pieces) {
    for (const KvSpan& span : spans_in(arenas.at(piece.level), piece.keys)) {
      k.push_back(span.k);
      v.push_back(span.v);
    }
  }
  const auto join = [](const std::vector<at::Tensor>& parts) {
    return (parts.size() == 1 ? parts[0] : at::cat(parts, 1)).to(at::kFloat);
  };
  return {join(k), join(v)};
}

void apply_bounds(const at::Tensor& scores, const std::vector<KeyPiece>& pieces,
                  const QueryBlock& block) {
  constexpr double kMinusInf = -std::numeric_limits<double>::infinity();
  std::int64_t at = 0;
  for (const KeyPiece& piece : pieces) {
    const std::int64_t len = piece.keys.size();
    if (piece.column != nullptr) {
      const auto bound = [&](const std::vector<std::int64_t>& values) {
        const std::span<const std::int64_t> rows(values.data() + block.begin, block.count);
        return to_tensor(rows, scores.device()).view({-1, 1, 1});
      };
      const at::Tensor keys =
          at::arange(piece.keys.begin, piece.keys.end, scores.options().dtype(at::kLong));
      const at::Tensor outside =
          keys.lt(bound(piece.column->begin)).logical_or_(keys.ge(bound(piece.column->end)));
      scores.narrow(-1, at, len).masked_fill_(outside, kMinusInf);
    }
    at += len;
  }
}

Selection expand_selection(const VisibleSet& visible) {
  Selection selection;
  const int num_levels = static_cast<int>(visible.gists.size());
  for (int level = kRawLevel; level < num_levels; ++level) {
    const at::Tensor ids = selected_keys(visible, level);
    if (ids.defined() && ids.size(2) > 0) selection.emplace_back(level, ids);
  }
  return selection;
}

std::vector<SelectedKeys> split_by_span(const KvArena& arena, const at::Tensor& ids) {
  std::vector<SelectedKeys> result;
  for (const KvSpan& span : arena.spans) {
    const at::Tensor local = ids.sub(span.begin);
    const at::Tensor invalid = local.lt(0).logical_or_(local.ge(span.len())).logical_or_(ids.lt(0));
    result.push_back({&span, local.masked_fill(invalid, 0), invalid});
  }
  return result;
}

std::int64_t selection_block_len(const at::Tensor& ids, std::int64_t head_dim) {
  const std::int64_t query_bytes =
      2 * 4 * ids.size(1) * std::max<std::int64_t>(ids.size(2), 1) * head_dim;
  return std::max<std::int64_t>(1, kGatherBytes / query_bytes);
}

at::Tensor gather_rows(const at::Tensor& x, const at::Tensor& idx) {
  // Spans are views of [H_kv, capacity, d] or [T, H_kv, d] memory: every row is d dense numbers at
  // a multiple of d, so a plain row table over the memory serves both without a copy.
  const std::int64_t d = x.size(2);
  const std::int64_t last = (x.size(0) - 1) * x.stride(0) + (x.size(1) - 1) * x.stride(1);
  const at::Tensor table = x.as_strided({last / d + 1, d}, {d, 1});
  const at::Tensor heads = at::arange(x.size(0), idx.options()).view({1, -1, 1});
  const at::Tensor rows = idx.mul(x.stride(1) / d).add_(heads.mul_(x.stride(0) / d));
  return at::index_select(table, 0, rows.flatten())
      .to(at::kFloat)
      .view({idx.size(0), idx.size(1), idx.size(2), d});
}

}  // namespace gsa::attention
