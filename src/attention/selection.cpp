#include "attention/selection.h"

#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/where.h>

#include <algorithm>
#include <limits>

#include "attention/key_pieces.h"

namespace gsa::attention {
namespace {

constexpr std::int64_t kNone = std::numeric_limits<std::int64_t>::max();

/// Replaces ids that a static range of their level already shows by -1.
at::Tensor without_static(const at::Tensor& ids, const RangeTable& table, int level) {
  at::Tensor result = ids;  // [T, H_kv, R]
  for (const RangeColumn& column : table.columns) {
    if (column.level != level) continue;
    const at::Tensor begin = to_tensor(column.begin, ids.device()).view({-1, 1, 1});
    const at::Tensor end = to_tensor(column.end, ids.device()).view({-1, 1, 1});
    result = result.masked_fill(result.ge(begin).logical_and_(result.lt(end)), -1);
  }
  return result;
}

/// Raw tokens of chunks: [T, H_kv, K] -> [T, H_kv, K * longest chunk], -1 where a chunk is shorter.
at::Tensor unfold(const at::Tensor& chunks, const Layout& layout) {
  const at::Device device = chunks.device();
  const at::Tensor begins = to_tensor(layout.child_begins(0), device);
  const at::Tensor ends = to_tensor(layout.child_ends(0), device);
  const at::Tensor chunk = chunks.clamp_min(0);
  const at::Tensor end = at::where(chunks.ge(0), ends.index({chunk}), 0).unsqueeze(-1);
  const at::Tensor offsets = at::arange(layout.max_chunk_len(), chunks.options());
  const at::Tensor tokens = begins.index({chunk}).unsqueeze(-1).add(offsets);
  return tokens.masked_fill(tokens.ge(end), -1).flatten(2);
}

}  // namespace

at::Tensor to_tensor(std::span<const std::int64_t> values, at::Device device) {
  const auto count = static_cast<std::int64_t>(values.size());
  // From pinned memory the copy to a device waits for nothing.
  const at::Tensor host =
      at::empty({count}, at::TensorOptions(at::kLong).pinned_memory(!device.is_cpu()));
  std::copy(values.begin(), values.end(), host.data_ptr<std::int64_t>());
  return device.is_cpu() ? host : host.to(device, /*non_blocking=*/true);
}

at::Tensor sorted_unique(const at::Tensor& ids) {
  if (ids.size(-1) == 0) return ids;
  const at::Tensor sorted = std::get<0>(ids.masked_fill(ids.lt(0), kNone).sort(-1));
  const std::int64_t width = ids.size(-1);
  at::Tensor kept = sorted.clone();
  const at::Tensor repeats = sorted.narrow(-1, 1, width - 1).eq(sorted.narrow(-1, 0, width - 1));
  kept.narrow(-1, 1, width - 1).masked_fill_(repeats, kNone);
  kept = std::get<0>(kept.sort(-1));
  return kept.masked_fill_(kept.eq(kNone), -1);
}

at::Tensor with_neighbours(const at::Tensor& chunks, PolicySpec::Unfold unfold,
                           std::int64_t num_chunks) {
  if (unfold == PolicySpec::Unfold::chunk) return chunks;
  const at::Tensor next = chunks.add(1), is_none = chunks.lt(0);
  std::vector<at::Tensor> all = {chunks,
                                 next.masked_fill(is_none.logical_or(next.ge(num_chunks)), -1)};
  if (unfold == PolicySpec::Unfold::both) all.push_back(chunks.sub(1).clamp_min(-1));
  return at::stack(all, -1).flatten(-2);
}

at::Tensor mean_raw_keys(const KvArena& raw, const Layout& layout, Range chunks,
                         at::ScalarType dtype) {
  constexpr std::int64_t kBlockTokens = 8192;  // keys that are copied at a time
  const std::int64_t longest = layout.max_chunk_len();
  const std::int64_t step = std::max<std::int64_t>(1, kBlockTokens / longest);
  std::vector<at::Tensor> means;
  for (std::int64_t first = chunks.begin; first < chunks.end; first += step) {
    const std::int64_t count = std::min(step, chunks.end - first);
    const Range tokens{layout.children(0, first).begin, layout.children(0, first + count - 1).end};
    std::vector<at::Tensor> parts;
    for (const KvSpan& span : spans_in(raw, tokens)) parts.push_back(span.k);
    const at::Tensor keys = parts.size() == 1 ? parts[0] : at::cat(parts, 1);
    const at::Device device = keys.device();
    const at::Tensor begin = to_tensor(layout.child_begins(0).subspan(first, count), device),
                     end = to_tensor(layout.child_ends(0).subspan(first, count), device);
    // One row per place in a chunk: a sum over rows, in the same order every time.
    const at::Tensor ids = at::arange(longest, begin.options()).unsqueeze(1).add(begin);
    const at::Tensor places = ids.clamp_max(tokens.end - 1).sub_(tokens.begin).flatten();
    const at::Tensor sums = keys.index_select(1, places)
                                .to(dtype)
                                .view({keys.size(0), longest, count, keys.size(2)})
                                .mul(ids.lt(end).unsqueeze(-1))
                                .sum(1);
    means.push_back(sums.div(end.sub(begin).unsqueeze(-1)));
  }
  return means.size() == 1 ? means[0] : at::cat(means, 1);
}

at::Tensor selected_keys(const VisibleSet& visible, int level) {
  at::Tensor ids;
  if (level == kRawLevel) {
    if (visible.unfolded.defined() && visible.layout->num_nodes(0) > 0) {
      ids = unfold(visible.unfolded, *visible.layout);
    }
    if (visible.tokens.defined()) {
      ids = ids.defined() ? sorted_unique(at::cat({ids, visible.tokens}, -1)) : visible.tokens;
    }
  } else if (level < static_cast<int>(visible.gists.size())) {
    ids = visible.gists[level];
  }
  return ids.defined() ? without_static(ids, *visible.ranges, level) : ids;
}

at::Tensor num_visible(const VisibleSet& visible, std::int64_t num_kv_heads) {
  const RangeTable& table = *visible.ranges;
  std::vector<std::int64_t> fixed(table.queries.count);
  for (std::int64_t t = 0; t < table.queries.count; ++t) fixed[t] = table.num_visible(t);
  const at::Device device = visible.unfolded.defined() ? visible.unfolded.device()
                            : visible.tokens.defined() ? visible.tokens.device()
                                                       : at::Device(at::kCPU);
  at::Tensor count = to_tensor(fixed, device).unsqueeze(1).repeat({1, num_kv_heads});
  const int num_levels = static_cast<int>(visible.gists.size());
  for (int level = kRawLevel; level < num_levels; ++level) {
    const at::Tensor ids = selected_keys(visible, level);
    if (ids.defined()) count += ids.ge(0).sum(-1);
  }
  return count;
}

}  // namespace gsa::attention
