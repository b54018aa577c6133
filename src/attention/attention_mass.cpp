#include "attention/attention_mass.h"

#include <ATen/ops/bmm.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <limits>

#include "attention/attend_parts.h"
#include "attention/key_pieces.h"

namespace gsa::attention {
namespace {

constexpr double kInf = std::numeric_limits<double>::infinity();
// Bytes of f32 scores that may exist at once.
constexpr std::int64_t kScoreBytes = 48 << 20;

/// Raw pieces of a block, whatever way they would be attended.
std::vector<KeyPiece> raw_pieces(const QueryBlock& block) {
  std::vector<KeyPiece> raw;
  for (const auto* pieces : {&block.dense, &block.causal, &block.loose}) {
    std::copy_if(pieces->begin(), pieces->end(), std::back_inserter(raw),
                 [](const KeyPiece& piece) { return piece.level == kRawLevel; });
  }
  return raw;
}

std::int64_t end_of_raw(const RangeTable& ranges) {
  std::int64_t end = 0;
  for (const RangeColumn& column : ranges.columns) {
    if (column.level == kRawLevel && !column.end.empty())
      end = std::max(end, *std::max_element(column.end.begin(), column.end.end()));
  }
  return end;
}

/// q [T, H, d] as rows per KV head: [H_kv, T * r, d] f32.
at::Tensor rows_by_kv_head(const at::Tensor& q, std::int64_t num_kv_heads) {
  const std::int64_t group = q.size(1) / num_kv_heads;
  return q.to(at::kFloat)
      .view({q.size(0), num_kv_heads, group, q.size(2)})
      .permute({1, 0, 2, 3})
      .reshape({num_kv_heads, q.size(0) * group, q.size(2)});
}

}  // namespace

std::int64_t score_block_len(std::int64_t num_heads, std::int64_t num_keys) {
  const std::int64_t row_bytes = 4 * num_heads * std::max<std::int64_t>(num_keys, 1);
  return std::max<std::int64_t>(1, kScoreBytes / row_bytes);
}

at::Tensor attention_mass(const at::Tensor& q, const at::Tensor& lse, const KvArenas& arenas,
                          const RangeTable& ranges, double scale) {
  const std::int64_t num_heads = q.size(1), num_kv_heads = arenas.num_kv_heads();
  const std::int64_t group = num_heads / num_kv_heads;
  // Queries that saw nothing give nothing.
  const at::Tensor weights = lse.masked_fill(lse.eq(-kInf), kInf);
  at::Tensor mass = at::zeros({num_kv_heads, end_of_raw(ranges)}, q.options().dtype(at::kFloat));
  for (const QueryBlock& block : plan_blocks(ranges, Pass::backward)) {
    const at::Tensor rows =
        rows_by_kv_head(q.narrow(0, block.begin, block.count), num_kv_heads).mul(scale);
    const at::Tensor row_lse =
        rows_by_kv_head(weights.narrow(0, block.begin, block.count).unsqueeze(-1), num_kv_heads);
    const std::int64_t max_keys = score_block_len(num_heads, block.count);
    for (const auto& pieces : group_pieces(raw_pieces(block), max_keys)) {
      const at::Tensor scores = at::bmm(rows, load_tile(arenas, pieces).k.transpose(1, 2));
      apply_bounds(scores.view({num_kv_heads, block.count, group, -1}), pieces, block);
      const at::Tensor received = scores.sub_(row_lse).exp_().sum(1);  // [H_kv, keys]
      std::int64_t at = 0;
      for (const KeyPiece& piece : pieces) {
        const std::int64_t count = piece.keys.size();
        mass.narrow(1, piece.keys.begin, count).add_(received.narrow(1, at, count));
        at += count;
      }
    }
  }
  return mass;
}

at::Tensor raw_scores(const at::Tensor& q, const KvArena& raw, Range keys, double scale) {
  std::vector<at::Tensor> parts;
  at::Tensor rows;
  for (const KvSpan& span : spans_in(raw, keys)) {
    if (!rows.defined()) rows = rows_by_kv_head(q, span.k.size(0)).mul(scale);
    parts.push_back(at::bmm(rows, span.k.to(at::kFloat).transpose(1, 2)));
  }
  const at::Tensor scores = parts.size() == 1 ? parts[0] : at::cat(parts, -1);
  const std::int64_t num_kv_heads = scores.size(0);
  return scores.view({num_kv_heads, q.size(0), q.size(1) / num_kv_heads, -1}).permute({1, 0, 2, 3});
}

}  // namespace gsa::attention
