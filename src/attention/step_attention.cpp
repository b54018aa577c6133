#include "attention/step_attention.h"

#include <ATen/ops/empty.h>

#include <algorithm>

#include "core/error.h"

namespace gsa::attention {
namespace {

bool is_static(const std::string& name) {
  return name == "full" || name == "streaming" || name == "gist-only";
}

bool is_search(const std::string& name) { return name == "gsa" || name == "meanpool"; }

}  // namespace

std::unique_ptr<StepAttention> StepAttention::make(Policy& policy, KvStore& store,
                                                   const Layout& layout, std::int64_t num_heads,
                                                   double scale) {
  const KvShape& shape = store.shape();
  if (!is_search(policy.spec().name) && !is_static(policy.spec().name)) return nullptr;
  if (policy.spec().route == PolicySpec::Route::oracle) return nullptr;
  if (policy.uses_gists() && shape.num_levels != layout.num_levels()) return nullptr;
  if (!KeyAddresses::supports(store) || scale <= 0) return nullptr;
  if (shape.head_dim % 8 != 0 || shape.head_dim > kernels::kMaxHeadDim) return nullptr;
  if (shape.num_kv_heads == 0 || num_heads % shape.num_kv_heads != 0) return nullptr;
  return std::unique_ptr<StepAttention>(new StepAttention(policy, store, layout, num_heads, scale));
}

StepAttention::StepAttention(Policy& policy, KvStore& store, const Layout& layout,
                             std::int64_t num_heads, double scale)
    : policy_(policy), store_(store), layout_(layout), keys_(store) {
  const std::int64_t num_kv_heads = store.shape().num_kv_heads;
  shape_ = {keys_.type(), num_kv_heads, num_heads / num_kv_heads, store.shape().head_dim,
            static_cast<float>(scale)};
  if (is_search(policy.spec().name))
    search_.emplace(policy.spec(), policy.chunk_keys(), keys_, layout, num_heads, scale, parallel_);
  runs_.resize(num_kv_heads);
  views_.resize(num_kv_heads);
}

void StepAttention::begin(std::int64_t raw_idx, ReadMeter* meter) {
  if (raw_idx < layout_.num_raw()) {
    core::internal_error("[StepAttention] row {} lies in the context of {} tokens", raw_idx,
                         layout_.num_raw());
  }
  raw_idx_ = raw_idx;
  meter_ = meter;
  row_rule_.reset();
}

void StepAttention::operator()(std::int64_t layer, const float* q, const float* k, const float* v,
                               float* out) {
  store_.append_row(layer, kRawLevel, k, v);
  keys_.load(layer);
  if (keys_.len(kRawLevel) != raw_idx_ + 1) {
    core::internal_error("[StepAttention] row {} was appended as entry {}", raw_idx_,
                         keys_.len(kRawLevel) - 1);
  }
  attend_loaded(layer, q, out);
}

void StepAttention::attend(std::int64_t layer, const float* q, float* out) {
  keys_.load(layer);
  if (keys_.len(kRawLevel) <= raw_idx_) {
    core::internal_error("[StepAttention] row {} is not among {} entries", raw_idx_,
                         keys_.len(kRawLevel));
  }
  attend_loaded(layer, q, out);
}

void StepAttention::attend_loaded(std::int64_t layer, const float* q, float* out) {
  const StaticRule rule = policy_.suffix_rule(layer);
  if (row_rule_ != rule) {
    row_ = visible_ranges_of_row(layout_, rule, raw_idx_);
    row_rule_ = rule;
  }
  const bool has_selection = policy_.selects(layer) && layout_.num_nodes(0) > 0;
  if (has_selection) {
    const ChunkKeys* const chunk_keys = policy_.chunk_keys();
    if (chunk_keys != nullptr && chunk_keys->len(layer) < layout_.num_nodes(0))
      policy_.update_chunk_keys(layer, store_.arenas(layer), layout_);
    search_->choose(layer, q, row_);
  }
  std::int64_t num_attended = 0;
  for (std::int64_t kv_head = 0; kv_head < shape_.num_kv_heads; ++kv_head) {
    list_runs(kv_head, has_selection);
    views_[kv_head] = {runs_[kv_head].runs, runs_[kv_head].num_keys};
    num_attended += runs_[kv_head].num_keys;
  }
  const std::int64_t scratch_bytes = kernels::decode_scratch_bytes(shape_, parallel_.num_threads());
  if (!scratch_.defined() || scratch_.numel() < scratch_bytes)
    scratch_ = at::empty({scratch_bytes}, at::kByte);  // aligned to 64
  kernels::decode_attention(shape_, q, views_, static_cast<std::byte*>(scratch_.mutable_data_ptr()),
                            out, parallel_);
  if (meter_ != nullptr) {
    meter_->add(num_attended, has_selection ? search_->num_scored_only() : 0, shape_.num_kv_heads,
                raw_idx_);
  }
}

/// The visible set of a KV head as runs of memory, every key once.
void StepAttention::list_runs(std::int64_t kv_head, bool has_selection) {
  HeadRuns& list = runs_[kv_head];
  list.runs.clear();
  list.runs.reserve(most_runs(has_selection));
  list.num_keys = 0;
  if (has_selection) {
    add_selected_tokens(kv_head);
    if (search_->attends_gists()) add_selected_gists(kv_head);
  } else {
    add(kRawLevel, row_.sinks, kv_head);
    add(kRawLevel, row_.local, kv_head);
  }
  for (int level = 0; level < row_.num_gist_levels; ++level) add(level, row_.gists[level], kv_head);
}

void StepAttention::add(int level, Range entries, std::int64_t kv_head) {
  keys_.add_runs(level, entries, kv_head, runs_[kv_head].runs);
  runs_[kv_head].num_keys += entries.size();
}

/// Raw tokens of selected chunks, between sinks and local tokens.
void StepAttention::add_selected_tokens(std::int64_t kv_head) {
  Range pending = row_.sinks;
  const auto add_raw = [&](Range tokens) {
    if (tokens.begin > pending.end) {
      add(kRawLevel, pending, kv_head);
      pending = tokens;
    }
    pending.end = std::max(pending.end, tokens.end);
  };
  for (const std::int32_t chunk : search_->kept(0, kv_head)) {
    const Range tokens = layout_.children(0, chunk);
    const Range hidden{tokens.begin, std::min(tokens.end, row_.local.begin)};
    if (hidden.size() > 0) add_raw(hidden);
  }
  add_raw(row_.local);
  add(kRawLevel, pending, kv_head);
}

void StepAttention::add_selected_gists(std::int64_t kv_head) {
  for (int level = 0; level < layout_.num_levels(); ++level) {
    Range pending;  // ids that follow each other make one run
    for (const std::int32_t id : search_->kept(level, kv_head)) {
      if (id != pending.end) {
        add(level, pending, kv_head);
        pending.begin = id;
      }
      pending.end = id + 1;
    }
    add(level, pending, kv_head);
  }
}

std::int64_t StepAttention::most_runs(bool has_selection) const {
  std::int64_t count = 2 * keys_.max_runs(kRawLevel) + row_.num_gist_levels;
  for (int level = 0; level < keys_.num_levels(); ++level) count += keys_.max_runs(level);
  if (!has_selection) return count;
  for (int level = 0; level < layout_.num_levels(); ++level) count += layout_.num_nodes(level);
  return count + layout_.num_nodes(0);
}

}  // namespace gsa::attention
