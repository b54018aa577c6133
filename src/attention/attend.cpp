#include "attention/attend.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/_scaled_dot_product_flash_attention.h>
#include <ATen/ops/_scaled_dot_product_flash_attention_for_cpu.h>
#include <ATen/ops/bmm.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/full.h>
#include <ATen/ops/logaddexp.h>

#include <algorithm>
#include <limits>

#include "attention/attend_grad.h"
#include "attention/attend_parts.h"
#include "attention/attend_ranges.h"
#include "attention/vector_math.h"
#include "core/error.h"

// Partial results of a block are f32 [T, H_kv, r, d] with log-sum-exps [T, H_kv, r]; they merge at
// the end of the block.
namespace gsa::attention {
namespace {

constexpr double kMinusInf = -std::numeric_limits<double>::infinity();
// Keys per score matrix of the loose part.
constexpr std::int64_t kMaxTileKeys = 4096;

/// Softmax over the last dimension of masked scores times values; rows without any key give 0 and
/// -inf.
///   scores [B, rows, n] f32 (overwritten), v [B, n, d] f32
Attended softmax_times(at::Tensor scores, const at::Tensor& v) {
  const at::Tensor peak = scores.amax(-1, true);
  const at::Tensor shift = peak.masked_fill(peak.eq(kMinusInf), 0);
  scores.sub_(shift).exp_();
  const at::Tensor sum = scores.sum(-1, true);
  return {at::bmm(scores, v).div_(sum.clamp_min(std::numeric_limits<float>::min())),
          shift.add(sum.log()).squeeze(-1)};
}

/// Whether the device has a fused attention for this dtype and head size.
bool has_fused(const at::Tensor& q) {
  if (q.is_cpu()) return true;
  const bool is_half = q.scalar_type() == at::kBFloat16 || q.scalar_type() == at::kHalf;
  return is_half && q.size(-1) % 8 == 0 && q.size(-1) <= 256;
}

/// LibTorch's fused attention: q [B, H, T, d], k and v [B, H, n, d].
Attended fused(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, bool is_causal,
               double scale) {
  if (q.is_cpu()) {
    auto [out, lse] =
        at::_scaled_dot_product_flash_attention_for_cpu(q, k, v, 0.0, is_causal, {}, scale);
    return {out.to(at::kFloat), lse.to(at::kFloat)};
  }
  const auto result =
      at::_scaled_dot_product_flash_attention(q, k, v, 0.0, is_causal, false, scale);
  return {std::get<0>(result).to(at::kFloat), std::get<1>(result)};
}

/// Attention of all rows over all keys: q [H_kv, rows, d], k and v [H_kv, n, d] of one dtype.
Attended dense(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, double scale) {
  if (has_fused(q)) {
    const Attended result = fused(q.unsqueeze(0), k.unsqueeze(0), v.unsqueeze(0), false, scale);
    return {result.out[0], result.lse[0]};
  }
  const at::Tensor scores = at::bmm(q.to(at::kFloat).mul(scale), k.to(at::kFloat).transpose(1, 2));
  return softmax_times(scores, v.to(at::kFloat));
}

void merge_into(Attended& total, Attended part) {
  total = total.out.defined() ? merge(total, part) : std::move(part);
}

/// `attend` without gradient, block by block.
class BlockAttention {
 public:
  BlockAttention(const at::Tensor& q, const KvArenas& arenas, double scale)
      : arenas_(arenas),
        scale_(scale),
        num_kv_heads_(arenas.num_kv_heads()),
        group_(q.size(1) / num_kv_heads_),
        head_dim_(q.size(2)),
        q_(q.view({q.size(0), num_kv_heads_, group_, head_dim_})) {}

  /// Static part of a block.
  Attended over_ranges(const QueryBlock& block) const {
    // One KV head is one batch entry; the r query heads that share it are more rows.
    const at::Tensor q = q_.narrow(0, block.begin, block.count)
                             .permute({1, 0, 2, 3})
                             .reshape({num_kv_heads_, block.count * group_, head_dim_});
    Attended total;
    for (const KeyPiece& piece : block.dense) {
      for (const KvSpan& span : spans_in(arenas_.at(piece.level), piece.keys)) {
        merge_into(total, dense(q, span.k, span.v, scale_));
      }
    }
    std::vector<KeyPiece> loose = block.loose;
    for (const KeyPiece& piece : block.causal) {
      const auto spans = spans_in(arenas_.at(piece.level), piece.keys);
      if (spans.size() == 1 && has_fused(q)) {
        merge_into(total, causal(block, spans[0]));
      } else {
        loose.push_back(piece);
      }
    }
    for (const auto& pieces : group_pieces(loose, kMaxTileKeys)) {
      const KeyTile tile = load_tile(arenas_, pieces);
      const at::Tensor scores = at::bmm(q.to(at::kFloat).mul(scale_), tile.k.transpose(1, 2));
      apply_bounds(scores.view({num_kv_heads_, block.count, group_, -1}), pieces, block);
      merge_into(total, softmax_times(scores, tile.v));
    }
    if (!total.out.defined()) return nothing(block.count);
    return {total.out.view({num_kv_heads_, block.count, group_, head_dim_}).permute({1, 0, 2, 3}),
            total.lse.view({num_kv_heads_, block.count, group_}).permute({1, 0, 2})};
  }

  /// A block of a result for all queries.
  Attended part_of(const Attended& all, const QueryBlock& block) const {
    const auto rows = [&](const at::Tensor& x) { return x.narrow(0, block.begin, block.count); };
    return {rows(all.out).view({block.count, num_kv_heads_, group_, head_dim_}),
            rows(all.lse).view({block.count, num_kv_heads_, group_})};
  }

  /// Selected keys of one level for queries [begin, begin + ids.size(0)).
  Attended over_selected(int level, const at::Tensor& ids, std::int64_t begin) const {
    const std::int64_t count = ids.size(0);
    const at::Tensor q = q_.narrow(0, begin, count)
                             .to(at::kFloat)
                             .mul(scale_)
                             .view({count * num_kv_heads_, group_, head_dim_});
    Attended total;
    for (const SelectedKeys& part : split_by_span(arenas_.at(level), ids)) {
      const std::int64_t width = part.idx.size(2);
      const at::Tensor k = gather_rows(part.span->k, part.idx).view({-1, width, head_dim_});
      const at::Tensor v = gather_rows(part.span->v, part.idx).view({-1, width, head_dim_});
      at::Tensor scores = at::bmm(q, k.transpose(1, 2));
      scores.masked_fill_(part.invalid.view({-1, 1, width}), kMinusInf);
      merge_into(total, softmax_times(scores, v));
    }
    if (!total.out.defined()) return nothing(count);
    return {total.out.view({count, num_kv_heads_, group_, head_dim_}),
            total.lse.view({count, num_kv_heads_, group_})};
  }

 private:
  /// Query t of the block over the first t + 1 keys of the span. The fused operation wants as many
  /// heads in k as in q: the r heads of a group are batch entries that share the keys.
  Attended causal(const QueryBlock& block, const KvSpan& span) const {
    const at::Tensor q = q_.narrow(0, block.begin, block.count).permute({2, 1, 0, 3});
    const auto shared = [&](const at::Tensor& x) {
      return x.unsqueeze(0).expand({group_, num_kv_heads_, block.count, head_dim_});
    };
    const Attended result = fused(q, shared(span.k), shared(span.v), true, scale_);
    return {result.out.permute({1, 2, 0, 3}).reshape({num_kv_heads_, -1, head_dim_}),
            result.lse.permute({1, 2, 0}).reshape({num_kv_heads_, -1})};
  }

  Attended nothing(std::int64_t count) const {
    const auto options = q_.options().dtype(at::kFloat);
    return {at::full({count, num_kv_heads_, group_, head_dim_}, 0.0, options),
            at::full({count, num_kv_heads_, group_}, kMinusInf, options)};
  }

  const KvArenas& arenas_;
  double scale_;
  std::int64_t num_kv_heads_, group_, head_dim_;
  at::Tensor q_;  // [T, H_kv, r, d]
};

Attended attend_blocks(const at::Tensor& q, const KvArenas& arenas, const VisibleSet& visible,
                       double scale) {
  const Selection selection = expand_selection(visible);
  Attended by_kernel;  // over the ranges of all blocks
  if (can_attend_ranges(q, arenas)) {
    by_kernel = attend_ranges(q, arenas, *visible.ranges, scale);
    if (selection.empty()) return by_kernel;
    by_kernel.out = by_kernel.out.to(at::kFloat);
  }
  const BlockAttention block_attention(q, arenas, scale);
  Attended result{at::empty_like(q),
                  at::empty({q.size(0), q.size(1)}, q.options().dtype(at::kFloat))};
  const auto attend_block = [&](const QueryBlock& block) {
    Attended total = by_kernel.out.defined() ? block_attention.part_of(by_kernel, block)
                                             : block_attention.over_ranges(block);
    for (const auto& [level, ids] : selection) {
      const std::int64_t step = selection_block_len(ids, q.size(2));
      std::vector<at::Tensor> outs, lses;
      for (std::int64_t begin = 0; begin < block.count; begin += step) {
        const std::int64_t first = block.begin + begin;
        const std::int64_t count = std::min(step, block.count - begin);
        Attended part = block_attention.over_selected(level, ids.narrow(0, first, count), first);
        outs.push_back(std::move(part.out));
        lses.push_back(std::move(part.lse));
      }
      merge_into(total, {at::cat(outs), at::cat(lses)});
    }
    result.out.narrow(0, block.begin, block.count)
        .copy_(total.out.reshape({block.count, q.size(1), q.size(2)}));
    result.lse.narrow(0, block.begin, block.count)
        .copy_(total.lse.reshape({block.count, q.size(1)}));
  };
  for (const QueryBlock& block : plan_blocks(*visible.ranges, Pass::forward)) attend_block(block);
  return result;
}

void check_shapes(const at::Tensor& q, const KvArenas& arenas, const VisibleSet& visible) {
  const std::int64_t num_kv_heads = arenas.num_kv_heads();
  if (num_kv_heads == 0 || q.dim() != 3 || q.size(1) % num_kv_heads != 0) {
    core::internal_error("[attend] q has {} heads, k has {}: q heads must be a multiple",
                         q.dim() == 3 ? q.size(1) : 0, num_kv_heads);
  }
  if (q.size(0) != visible.ranges->queries.count) {
    core::internal_error("[attend] q has {} rows for {} queries", q.size(0),
                         visible.ranges->queries.count);
  }
}

}  // namespace

Attended attend(const at::Tensor& q, const KvArenas& arenas, const VisibleSet& visible,
                double scale) {
  check_shapes(q, arenas, visible);
  prepare_vector_math();
  const bool needs_grad =
      at::GradMode::is_enabled() && (q.requires_grad() || arenas.requires_grad());
  if (needs_grad) return attend_with_grad(q, arenas, visible, scale, attend_blocks);
  return attend_blocks(q.contiguous(), arenas, visible, scale);
}

Attended merge(const Attended& a, const Attended& b) {
  const at::Tensor lse = at::logaddexp(a.lse, b.lse);
  // Where neither part saw a key both are -inf; the weights are then 0, not nan.
  const at::Tensor shift = lse.masked_fill(lse.eq(kMinusInf), 0);
  const at::Tensor weight_a = a.lse.sub(shift).exp_().unsqueeze(-1);
  const at::Tensor weight_b = b.lse.sub(shift).exp_().unsqueeze(-1);
  return {a.out.mul(weight_a).add_(b.out.mul(weight_b)).to(a.out.scalar_type()), lse};
}

}  // namespace gsa::attention
