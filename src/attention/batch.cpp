#include "attention/batch.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros.h>

#include <algorithm>

#include "attention/attend.h"
#include "attention/attention_mass.h"
#include "attention/packed_attention.h"
#include "attention/routing_loss.h"
#include "attention/selection.h"
#include "attention/step_attention.h"

namespace gsa::attention {
namespace {

/// Keys and values of a sequence that has no store: its own rows.
KvArenas arenas_of_rows(const BatchSequence& sequence, const at::Tensor& k, const at::Tensor& v) {
  KvArenas arenas;
  arenas.gists.resize(sequence.layout->num_levels());
  for (const BatchSlice& slice : sequence.slices) {
    const auto& [level, begin, count, branch_begins] = slice.entries;
    if (count == 0) continue;
    KvArena& arena = level == kRawLevel ? arenas.raw : arenas.gists[level];
    arena.spans.push_back({k.narrow(0, slice.row, count).transpose(0, 1),
                           v.narrow(0, slice.row, count).transpose(0, 1), begin});
  }
  return arenas;
}

}  // namespace

BatchAttention::BatchAttention(const Batch& batch, double scale, RoutingLoss* routing)
    : batch_(batch),
      scale_(scale),
      routing_(routing),
      packed_(std::make_unique<PackedAttention>(batch)) {}

BatchAttention::~BatchAttention() = default;

at::Tensor BatchAttention::operator()(std::int64_t layer, const at::Tensor& q, const at::Tensor& k,
                                      const at::Tensor& v) {
  for (const BatchSequence& sequence : batch_.sequences) {
    if (sequence.store == nullptr) continue;
    for (const BatchSlice& slice : sequence.slices) {
      const std::int64_t count = slice.entries.count;
      sequence.store->append(layer, slice.entries.level, k.narrow(0, slice.row, count),
                             v.narrow(0, slice.row, count));
    }
  }
  if (routing_ != nullptr) add_routing(layer, q, k);
  if (PackedAttention::supports(batch_, q)) {
    const at::Tensor out = attend_packed(layer, q, k, v);
    if (out.defined()) return out;
  }
  std::vector<std::pair<std::int64_t, at::Tensor>> parts;  // by first row
  for (const BatchSequence& sequence : batch_.sequences) {
    const KvArenas arenas =
        sequence.store != nullptr ? sequence.store->arenas(layer) : arenas_of_rows(sequence, k, v);
    for (const BatchSlice& slice : sequence.slices) {
      if (slice.entries.count == 0) continue;
      const at::Tensor rows = q.narrow(0, slice.row, slice.entries.count);
      parts.emplace_back(slice.row, attend_slice(layer, sequence, slice, rows, arenas));
    }
  }
  std::sort(parts.begin(), parts.end(),
            [](const auto& a, const auto& b) { return a.first < b.first; });
  std::vector<at::Tensor> outs;
  for (auto& [row, out] : parts) outs.push_back(std::move(out));
  return outs.size() == 1 ? outs[0] : at::cat(outs);
}

void BatchAttention::add_routing(std::int64_t layer, const at::Tensor& q, const at::Tensor& k) {
  std::vector<RoutingRows> rows;
  for (const BatchSequence& sequence : batch_.sequences) {
    if (!sequence.policy->uses_gists() || !sequence.policy->selects(layer)) continue;
    for (const BatchSlice& slice : sequence.slices) {
      if (slice.is_suffix && slice.entries.count > 0)
        rows.push_back({&sequence, &slice, ranges_for(layer, sequence, slice)});
    }
  }
  routing_->add(q, k, rows, scale_);
}

at::Tensor BatchAttention::attend_packed(std::int64_t layer, const at::Tensor& q,
                                         const at::Tensor& k, const at::Tensor& v) {
  std::vector<std::vector<PlannedSlice>> slices;
  for (const BatchSequence& sequence : batch_.sequences) {
    auto& planned = slices.emplace_back();
    for (const BatchSlice& slice : sequence.slices) {
      if (slice.entries.count == 0) continue;
      const bool selects = slice.is_suffix && sequence.policy->selects(layer);
      planned.push_back({&slice, ranges_for(layer, sequence, slice), selects});
    }
  }
  if (!packed_->prepare(slices, q.device())) return {};

  std::vector<VisibleSet> selected(slices.size());
  for (std::size_t i = 0; i < slices.size(); ++i) {
    for (const PlannedSlice& planned : slices[i]) {
      if (!planned.selects) continue;
      const BatchSequence& sequence = batch_.sequences[i];
      const at::Tensor rows = q.narrow(0, planned.slice->row, planned.slice->entries.count);
      selected[i] = visible_set(layer, sequence, *planned.slice, rows.detach(),
                                arenas_of_rows(sequence, k.detach(), v.detach()));
    }
  }
  return (*packed_)(q, k, v, selected, scale_);
}

at::Tensor BatchAttention::attend_slice(std::int64_t layer, const BatchSequence& sequence,
                                        const BatchSlice& slice, const at::Tensor& q,
                                        const KvArenas& arenas) {
  const bool has_steps = slice.is_suffix && sequence.steps != nullptr;
  if (has_steps && sequence.policy->selects(layer) && sequence.layout->num_nodes(0) > 0)
    return attend_by_rows(layer, sequence, slice, q);
  const VisibleSet visible = visible_set(layer, sequence, slice, q, arenas);
  const Attended result = attend(q, arenas, visible, scale_);
  if (sequence.policy->observes_context() && !slice.is_suffix && slice.entries.level == kRawLevel) {
    sequence.policy->observe(layer, attention_mass(q, result.lse, arenas, *visible.ranges, scale_));
  }
  return result.out;
}

/// One row after the other: each selects for itself.
at::Tensor BatchAttention::attend_by_rows(std::int64_t layer, const BatchSequence& sequence,
                                          const BatchSlice& slice, const at::Tensor& q) {
  const at::Tensor rows = q.to(at::kFloat).contiguous();
  at::Tensor out = at::empty_like(rows);
  const std::int64_t row_len = rows.size(1) * rows.size(2);
  for (std::int64_t i = 0; i < rows.size(0); ++i) {
    sequence.steps->begin(slice.entries.begin + i, sequence.meter);
    sequence.steps->attend(layer, rows.const_data_ptr<float>() + i * row_len,
                           out.mutable_data_ptr<float>() + i * row_len);
  }
  return out.to(q.scalar_type());
}

VisibleSet BatchAttention::visible_set(std::int64_t layer, const BatchSequence& sequence,
                                       const BatchSlice& slice, const at::Tensor& q,
                                       const KvArenas& arenas) {
  Policy& policy = *sequence.policy;
  VisibleSet visible;
  visible.ranges = ranges_for(layer, sequence, slice);
  visible.layout = sequence.layout;
  at::Tensor scored_only;
  if (slice.is_suffix && policy.selects(layer)) {
    const at::NoGradGuard no_grad;  // top-k is not differentiated, and policies keep what they see
    scored_only = policy.select(
        {layer, q.detach(), &arenas, sequence.layout, visible.ranges, scale_}, visible);
  }
  if (slice.is_suffix && sequence.meter != nullptr) {
    sequence.meter->add(num_visible(visible, arenas.num_kv_heads()), scored_only, *visible.ranges);
  }
  return visible;
}

BatchAttention::Ranges BatchAttention::ranges_for(std::int64_t layer, const BatchSequence& sequence,
                                                  const BatchSlice& slice) {
  const StaticRule rule = slice.is_suffix ? sequence.policy->suffix_rule(layer)
                                          : sequence.policy->context_rule(slice.entries.level);
  for (const CachedRanges& cached : cache_) {
    if (cached.slice == &slice && cached.rule == rule) return cached.ranges;
  }
  auto ranges =
      std::make_shared<const RangeTable>(visible_ranges(*sequence.layout, rule, slice.entries));
  cache_.push_back({&slice, rule, ranges});
  return ranges;
}

void append_context(Batch& batch, BatchSequence& sequence, std::span<const std::int64_t> tokens,
                    std::int64_t raw_begin) {
  const Layout& layout = *sequence.layout;
  const at::Device device =
      sequence.store != nullptr ? sequence.store->shape().options.device() : at::Device(at::kCPU);
  const auto raw_count = static_cast<std::int64_t>(tokens.size());
  std::int64_t row = batch.tokens.defined() ? batch.num_rows() : 0;
  std::vector<at::Tensor> ids, positions;
  if (batch.tokens.defined()) {
    ids.push_back(batch.tokens);
    positions.push_back(batch.positions);
  }
  const auto add = [&](int level, std::int64_t begin, at::Tensor token_ids, at::Tensor places) {
    const std::int64_t count = token_ids.size(0);
    if (count == 0) return;
    sequence.slices.push_back({{level, begin, count}, row, false});
    row += count;
    ids.push_back(std::move(token_ids));
    positions.push_back(std::move(places));
  };
  const auto options = at::TensorOptions(at::kLong).device(device);
  add(kRawLevel, raw_begin, to_tensor(tokens, device),
      at::arange(raw_begin, raw_begin + raw_count, options));
  const int num_levels = sequence.policy->uses_gists() ? layout.num_levels() : 0;
  for (int level = 0; level < num_levels; ++level) {
    // A gist ends in the segment if it is not before its first token but before the token behind
    // its last.
    const std::int64_t first = layout.nodes_before_raw(level, raw_begin);
    const std::int64_t last = layout.nodes_before_raw(level, raw_begin + raw_count);
    std::vector<std::int64_t> places;
    for (std::int64_t node = first; node < last; ++node)
      places.push_back(layout.position(level, node));
    add(level, first, at::zeros({last - first}, options), to_tensor(places, device));
  }
  if (ids.empty()) return;
  batch.tokens = at::cat(ids);
  batch.positions = at::cat(positions);
}

}  // namespace gsa::attention
