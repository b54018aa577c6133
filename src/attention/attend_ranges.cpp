#include "attention/attend_ranges.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>

#include <algorithm>

#include "attention/element_type.h"
#include "attention/torch_parallel.h"
#include "core/error.h"
#include "kernels/cpu/context_attention.h"

namespace gsa::attention {
namespace {

/// Whether a head's entries are dense rows, and keys and values lie alike.
bool has_dense_rows(const KvSpan& span) {
  return span.k.stride(2) == 1 && span.k.strides() == span.v.strides();
}

/// The kernels trust that ranges lie inside the arenas.
void check_ranges(const RangeTable& ranges, const KvArenas& arenas) {
  for (const RangeColumn& column : ranges.columns) {
    const std::int64_t len = arenas.at(column.level).len();
    for (std::size_t i = 0; i < column.end.size(); ++i) {
      if (column.begin[i] < column.end[i] && (column.begin[i] < 0 || column.end[i] > len)) {
        core::internal_error("[attend] a range [{}, {}) of level {} with {} entries",
                             column.begin[i], column.end[i], column.level, len);
      }
    }
  }
}

kernels::KeySpan address_of(const KvSpan& span) {
  return {span.k.const_data_ptr(),
          span.v.const_data_ptr(),
          span.k.stride(0),
          span.k.stride(1),
          span.begin,
          span.len()};
}

}  // namespace

bool can_attend_ranges(const at::Tensor& q, const KvArenas& arenas) {
  const at::ScalarType type = q.scalar_type();
  if (!q.is_cpu() || (type != at::kFloat && type != at::kBFloat16)) return false;
  if (q.size(2) % 8 != 0 || q.size(2) > kernels::kMaxContextHeadDim) return false;
  const auto serves = [&](const KvArena& arena) {
    return std::ranges::all_of(arena.spans, [&](const KvSpan& span) {
      return span.k.scalar_type() == type && has_dense_rows(span);
    });
  };
  return serves(arenas.raw) && std::ranges::all_of(arenas.gists, serves);
}

Attended attend_ranges(const at::Tensor& q, const KvArenas& arenas, const RangeTable& ranges,
                       double scale) {
  check_ranges(ranges, arenas);
  std::vector<std::vector<kernels::KeySpan>> spans;
  std::vector<kernels::KeyColumn> columns;
  spans.reserve(ranges.columns.size());  // columns point into it
  for (const RangeColumn& column : ranges.columns) {
    auto& addresses = spans.emplace_back();
    for (const KvSpan& span : arenas.at(column.level).spans) addresses.push_back(address_of(span));
    columns.push_back({addresses.data(), column.begin.data(), column.end.data()});
  }
  const std::int64_t num_kv_heads = arenas.num_kv_heads();
  const kernels::ContextShape shape{
      element_type(q.scalar_type()), q.size(0), num_kv_heads,
      q.size(1) / num_kv_heads,      q.size(2), static_cast<float>(scale)};
  Attended result{at::empty_like(q),
                  at::empty({q.size(0), q.size(1)}, q.options().dtype(at::kFloat))};
  TorchParallel parallel;
  at::Tensor scratch =
      at::empty({kernels::context_scratch_bytes(shape, parallel.num_threads())}, at::kByte);
  kernels::context_attention(shape, q.const_data_ptr(), columns,
                             static_cast<std::byte*>(scratch.mutable_data_ptr()),
                             result.out.data_ptr(), result.lse.data_ptr<float>(), parallel);
  return result;
}

}  // namespace gsa::attention
