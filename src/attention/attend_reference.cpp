#include <ATen/ops/empty.h>

#include <set>
#include <utility>

#include "attention/attend.h"
#include "core/error.h"
#include "kernels/reference/attention.h"

namespace gsa::attention {
namespace {

using Key = std::pair<int, std::int64_t>;  // level, index in its arena

void add_ids(const at::Tensor& ids, std::int64_t t, std::int64_t head, int level,
             std::set<Key>& keys) {
  if (!ids.defined()) return;
  const at::Tensor row = ids[t][head].contiguous();
  for (std::int64_t i = 0; i < row.size(0); ++i) {
    if (const std::int64_t id = row.data_ptr<std::int64_t>()[i]; id >= 0) keys.insert({level, id});
  }
}

/// Every key that a query sees, straight from the definition of a visible set.
std::set<Key> visible_keys(const VisibleSet& visible, std::int64_t t, std::int64_t kv_head) {
  std::set<Key> keys;
  for (const RangeColumn& column : visible.ranges->columns) {
    for (std::int64_t j = column.begin[t]; j < column.end[t]; ++j) keys.insert({column.level, j});
  }
  std::set<Key> chunks;
  add_ids(visible.unfolded, t, kv_head, 0, chunks);
  for (const auto& [level, chunk] : chunks) {
    const Range raw = visible.layout->children(level, chunk);
    for (std::int64_t j = raw.begin; j < raw.end; ++j) keys.insert({kRawLevel, j});
  }
  add_ids(visible.tokens, t, kv_head, kRawLevel, keys);
  for (std::size_t level = 0; level < visible.gists.size(); ++level) {
    add_ids(visible.gists[level], t, kv_head, static_cast<int>(level), keys);
  }
  return keys;
}

const float* row_of(const KvArena& arena, std::int64_t kv_head, std::int64_t idx,
                    at::Tensor KvSpan::* part) {
  for (const KvSpan& span : arena.spans) {
    if (idx < span.begin || idx >= span.begin + span.len()) continue;
    const at::Tensor& x = span.*part;
    return x.data_ptr<float>() + kv_head * x.stride(0) + (idx - span.begin) * x.stride(1);
  }
  core::internal_error("[attend] a visible set names key {} of an arena of {}", idx, arena.len());
}

KvArenas to_float(const KvArenas& arenas) {
  KvArenas result = arenas;
  const auto convert = [](KvArena& arena) {
    for (KvSpan& span : arena.spans) {
      span.k = span.k.to(at::kFloat);
      span.v = span.v.to(at::kFloat);
    }
  };
  convert(result.raw);
  for (KvArena& arena : result.gists) convert(arena);
  return result;
}

}  // namespace

Attended attend_reference(const at::Tensor& q, const KvArenas& arenas, const VisibleSet& visible,
                          double scale) {
  const KvArenas stored = to_float(arenas);
  const at::Tensor queries = q.to(at::kFloat).contiguous();
  const std::int64_t num_heads = q.size(1), d = q.size(2);
  const std::int64_t group = num_heads / stored.num_kv_heads();
  Attended result{at::empty(q.sizes(), at::kFloat), at::empty({q.size(0), num_heads}, at::kFloat)};
  for (std::int64_t t = 0; t < q.size(0); ++t) {
    for (std::int64_t head = 0; head < num_heads; ++head) {
      std::vector<const float*> keys, values;
      for (const auto& [level, idx] : visible_keys(visible, t, head / group)) {
        keys.push_back(row_of(stored.at(level), head / group, idx, &KvSpan::k));
        values.push_back(row_of(stored.at(level), head / group, idx, &KvSpan::v));
      }
      const std::int64_t row = t * num_heads + head;
      const auto size = static_cast<std::size_t>(d);
      result.lse.data_ptr<float>()[row] = static_cast<float>(
          kernels::reference::attend({queries.data_ptr<float>() + row * d, size}, keys, values,
                                     scale, {result.out.data_ptr<float>() + row * d, size}));
    }
  }
  result.out = result.out.to(q.scalar_type());
  return result;
}

}  // namespace gsa::attention
