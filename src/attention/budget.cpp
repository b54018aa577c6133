#include "attention/budget.h"

#include <ATen/ops/arange.h>
#include <ATen/ops/maximum.h>
#include <ATen/ops/minimum.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/zeros_like.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "attention/selection.h"

namespace gsa::attention {
namespace {

std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

/// Raw tokens of chunks [T, ...] that no static range of the query shows; 0 for -1.
at::Tensor extra_tokens(const at::Tensor& chunks, const Layout& layout, const RangeTable& ranges) {
  const at::Device device = chunks.device();
  const at::Tensor safe = chunks.clamp_min(0);
  const at::Tensor begin = to_tensor(layout.child_begins(0), device).index({safe});
  const at::Tensor end = to_tensor(layout.child_ends(0), device).index({safe});
  at::Tensor count = end.sub(begin);
  std::vector<std::int64_t> per_query(chunks.dim(), 1);
  per_query[0] = -1;
  for (const RangeColumn& column : ranges.columns) {
    if (column.level != kRawLevel) continue;
    const at::Tensor low = at::maximum(begin, to_tensor(column.begin, device).view(per_query));
    const at::Tensor high = at::minimum(end, to_tensor(column.end, device).view(per_query));
    count = count.sub(high.sub(low).clamp_min(0));
  }
  return count.masked_fill_(chunks.lt(0), 0);
}

/// Marks ids that occurred earlier in their row.
at::Tensor is_repeat(const at::Tensor& ids) {
  const std::int64_t width = ids.size(-1);
  const auto [sorted, order] = ids.sort(/*stable=*/true, -1, false);
  at::Tensor repeats = at::zeros_like(ids, ids.options().dtype(at::kBool));
  if (width > 1) {
    repeats.narrow(-1, 1, width - 1)
        .copy_(sorted.narrow(-1, 1, width - 1).eq(sorted.narrow(-1, 0, width - 1)));
  }
  return at::zeros_like(repeats).scatter_(-1, order, repeats);
}

}  // namespace

std::int64_t budget_tokens(const PolicySpec& spec, const BudgetContext& context) {
  return std::llround(static_cast<double>(spec.budget.tokens) * context.share);
}

std::int64_t max_nodes(const PolicySpec& spec, const BudgetContext& context, int level) {
  const auto& sizes = spec.layout.chunk_sizes.sizes;
  const std::int64_t num_nodes = context.layout->num_nodes(level);
  if (spec.budget.kind == Budget::Kind::top_p) return num_nodes;
  if (spec.budget.kind == Budget::Kind::ratio) {
    const std::int64_t k =
        context.num_keys / spec.nominal_ratio() / context.group_size / sizes[0] + 1;
    const auto shared = std::llround(static_cast<double>(k) * context.share);
    return std::clamp<std::int64_t>(shared, 1, std::max<std::int64_t>(1, num_nodes / 4));
  }
  // Local chunks cost nothing when they are chosen: they must not take the place of others.
  const std::int64_t alone =
      ceil_div(budget_tokens(spec, context), sizes[0]) + spec.layout.num_local_chunks;
  std::int64_t wanted = alone;
  for (int above = 1; above <= level; ++above) {
    wanted = std::max(ceil_div(alone, context.num_searches) + 1, ceil_div(wanted, sizes[above]));
  }
  return wanted;
}

at::Tensor top_candidates(const PolicySpec& spec, const BudgetContext& context, int level,
                          const at::Tensor& scores, const at::Tensor& ids, double scale) {
  const std::int64_t k = std::min(scores.size(-1), max_nodes(spec, context, level));
  const auto [values, order] = scores.topk(k, -1, true, true);
  at::Tensor best = ids.defined() ? ids.gather(-1, order) : order;
  at::Tensor rejected = values.eq(-std::numeric_limits<double>::infinity());
  if (spec.budget.kind == Budget::Kind::top_p) {
    // A node is needed while the mass of the better ones is below top_p.
    const at::Tensor mass = at::softmax(values.mul(scale), -1);
    rejected = rejected.logical_or(mass.cumsum(-1).sub_(mass).ge(spec.budget.top_p));
  }
  return best.masked_fill(rejected, -1);
}

at::Tensor within_tokens(const at::Tensor& chosen, std::int64_t tokens, const Layout& layout,
                         const RangeTable& ranges) {
  at::Tensor by_rank = chosen.transpose(2, 3).flatten(2);  // best of every search, second best, ...
  by_rank = by_rank.masked_fill(is_repeat(by_rank), -1);
  const at::Tensor spent = extra_tokens(by_rank, layout, ranges).cumsum(-1);
  return by_rank.masked_fill(spent.gt(tokens), -1);
}

}  // namespace gsa::attention
