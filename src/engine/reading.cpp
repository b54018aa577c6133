#include "engine/reading.h"

#include <ATen/ops/empty.h>
#include <c10/core/InferenceMode.h>

#include <algorithm>
#include <chrono>
#include <ranges>
#include <span>
#include <utility>

#include "attention/batch.h"
#include "attention/visible.h"
#include "core/error.h"
#include "engine/memory.h"

namespace gsa::engine {
namespace {

using attention::kRawLevel;

/// Levels whose gists are tokens with keys and values of their own.
int num_gist_levels(const attention::Policy& policy) {
  return policy.uses_gists() ? policy.spec().layout.chunk_sizes.num_levels() : 0;
}

std::vector<attention::StaticRule> context_rules(const attention::Policy& policy) {
  std::vector<attention::StaticRule> rules;
  for (int level = kRawLevel; level < num_gist_levels(policy); ++level)
    rules.push_back(policy.context_rule(level));
  return rules;
}

/// Keys that all entries of a level attend, in blocks so that memory stays small.
double count_visible(const attention::Layout& layout, const attention::StaticRule& rule,
                     int level) {
  constexpr std::int64_t kBlockLen = 4096;
  const std::int64_t num_queries = level == kRawLevel ? layout.num_raw() : layout.num_nodes(level);
  double total = 0;
  for (std::int64_t begin = 0; begin < num_queries; begin += kBlockLen) {
    const std::int64_t count = std::min(kBlockLen, num_queries - begin);
    const auto table = attention::visible_ranges(layout, rule, {level, begin, count});
    for (std::int64_t query = 0; query < count; ++query)
      total += static_cast<double>(table.num_visible(query));
  }
  return total;
}

}  // namespace

void check_memory(const attention::KvShape& shape, const attention::Layout& layout,
                  bool has_chunk_keys, std::int64_t available_bytes) {
  std::int64_t num_entries = layout.num_raw();
  for (int level = 0; level < shape.num_levels; ++level) num_entries += layout.num_nodes(level);
  const std::int64_t needed_bytes =
      num_entries * kv_entry_bytes(shape) * shape.num_layers * shape.num_kv_heads +
      (has_chunk_keys ? attention::ChunkKeys::bytes_of(shape, layout) : 0);
  if (needed_bytes <= available_bytes) return;
  core::resource_error(
      "reading: keys and values of {} tokens need {} MB, {} MB are free: use a shorter document, "
      "dtype bf16 or a machine with more memory",
      layout.num_raw(), needed_bytes >> 20, available_bytes >> 20);
}

std::int64_t kv_entry_bytes(const attention::KvShape& shape) {
  return 2 * shape.head_dim * static_cast<std::int64_t>(shape.options.dtype().itemsize());
}

attention::Layout make_layout(const attention::LayoutOptions& options, const ContextTokens& context,
                              const std::vector<bool>& word_starts) {
  attention::Layout layout(options);
  std::int64_t begin = 0;
  for (const std::int64_t end : context.piece_ends) {
    const std::span piece(context.ids.data() + begin, context.ids.data() + end);
    layout.append(word_start_bytes(piece, word_starts));
    layout.end_piece();
    begin = end;
  }
  return layout;
}

std::vector<std::uint8_t> word_start_bytes(std::span<const std::int64_t> ids,
                                           const std::vector<bool>& word_starts) {
  std::vector<std::uint8_t> bytes(ids.size());
  std::transform(ids.begin(), ids.end(), bytes.begin(), [&](std::int64_t id) {
    // Rows that pad the embedding decode to nothing, and so start a word (method §1.3).
    return id >= static_cast<std::int64_t>(word_starts.size()) || word_starts[id];
  });
  return bytes;
}

double prefill_fraction(const attention::Layout& layout, const attention::Policy& policy) {
  double num_read = 0;
  for (int level = kRawLevel; level < num_gist_levels(policy); ++level) {
    num_read += count_visible(layout, policy.context_rule(level), level);
  }
  const auto num_raw = static_cast<double>(layout.num_raw());
  return num_raw == 0 ? 0 : num_read / (num_raw * (num_raw + 1) / 2);
}

Reading::Reading(std::shared_ptr<const model::Model> model, const attention::PolicySpec& spec,
                 ContextTokens context)
    : model_(std::move(model)),
      policy_(attention::make_policy(spec)),
      context_(std::move(context)),
      layout_(make_layout(spec.layout, context_, model_->tokenizer().word_starts())),
      store_(model_->kv_shape(num_gist_levels(*policy_))) {}

std::shared_ptr<const Reading> Reading::read(std::shared_ptr<const model::Model> model,
                                             const attention::PolicySpec& spec,
                                             ContextTokens context, std::int64_t segment_len,
                                             const ReadProgress& progress) {
  check_context(context, model->config());
  std::shared_ptr<Reading> reading(new Reading(std::move(model), spec, std::move(context)));
  reading->run(segment_len, progress);
  return reading;
}

void Reading::check_context(const ContextTokens& context, const model::ModelConfig& config) {
  const auto num_tokens = static_cast<std::int64_t>(context.ids.size());
  const auto& ends = context.piece_ends;
  if (context.ids.empty())
    core::input_error("reading: the context is empty: give at least one token");
  if (!std::is_sorted(ends.begin(), ends.end()) || ends.empty() || ends.front() < 0 ||
      ends.back() != num_tokens) {
    core::input_error("reading: the ends of the pieces do not ascend to the context's {} tokens",
                      num_tokens);
  }
  for (const std::int64_t id : context.ids) {
    if (id < 0 || id >= config.vocab) {
      core::input_error("reading: token {} is outside the model's vocabulary of {}", id,
                        config.vocab);
    }
  }
}

void Reading::reserve() {
  if (const auto available_bytes = available_memory_bytes();
      available_bytes && model_->device().is_cpu()) {
    check_memory(store_.shape(), layout_, policy_->chunk_keys() != nullptr, *available_bytes);
  }
  store_.reserve(kRawLevel, num_tokens());
  for (int level = 0; level < store_.shape().num_levels; ++level)
    store_.reserve(level, layout_.num_nodes(level));
}

/// A context that needs several segments is cut so that tokens and the gists that end among them
/// make about the same number of rows in all but the last: products make and keep code for every
/// number of rows they meet.
std::int64_t Reading::segment_end(std::int64_t begin, std::int64_t segment_len) const {
  if (num_tokens() <= segment_len) return num_tokens();
  const auto rows_before = [&](std::int64_t token) {
    std::int64_t num_rows = token;
    for (int level = 0; level < num_gist_levels(*policy_); ++level)
      num_rows += layout_.nodes_before_raw(level, token);
    return num_rows;
  };
  const std::int64_t most = rows_before(begin) + segment_len;
  const auto ends = std::views::iota(begin + 1, std::min(begin + segment_len, num_tokens()) + 1);
  const auto fits = [&](std::int64_t end) { return rows_before(end) <= most; };
  const auto num_fitting = std::ranges::partition_point(ends, fits) - ends.begin();
  return begin + std::max<std::int64_t>(1, num_fitting);
}

void Reading::run(std::int64_t segment_len, const ReadProgress& progress) {
  const auto start = std::chrono::steady_clock::now();
  const c10::InferenceMode guard;
  reserve();
  // No hidden state of the context is wanted, only its keys and values.
  const model::ForwardOptions no_rows{
      at::empty({0}, at::TensorOptions(model_->device()).dtype(at::kLong))};
  for (std::int64_t begin = 0, end = 0; begin < num_tokens(); begin = end) {
    end = segment_end(begin, segment_len);
    attention::Batch batch;
    attention::BatchSequence sequence{&layout_, policy_.get(), &store_, nullptr, {}};
    sequence.raw_tokens = context_.ids;
    attention::append_context(batch, sequence, std::span(context_.ids).subspan(begin, end - begin),
                              begin);
    batch.sequences.push_back(std::move(sequence));
    model_->forward(batch, no_rows);
    if (progress) progress(end, num_tokens());
  }
  finish();
  seconds_ = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

void Reading::finish() {
  store_bytes_ = store_.bytes();
  if (policy_->chunk_keys() == nullptr) return;
  for (std::int64_t layer = 0; layer < store_.shape().num_layers; ++layer) {
    if (policy_->selects(layer)) policy_->update_chunk_keys(layer, store_.arenas(layer), layout_);
  }
  store_bytes_ += policy_->chunk_keys()->bytes();
}

bool Reading::serves(const model::Model& model, const attention::PolicySpec& spec) const {
  if (&model != model_.get()) return false;
  const auto policy = attention::make_policy(spec);
  if (policy->uses_gists() != policy_->uses_gists() ||
      context_rules(*policy) != context_rules(*policy_))
    return false;
  if (policy->observes_context() && !policy_->observes_context()) return false;
  if (policy->uses_gists()) return spec.layout == policy_->spec().layout;
  // Without gists the rule alone decides, but the rule may speak of sinks.
  return policy->context_rule(kRawLevel).kind == attention::StaticRule::Kind::full ||
         spec.layout.num_sinks == policy_->spec().layout.num_sinks;
}

attention::Layout Reading::layout(const attention::LayoutOptions& options) const {
  if (options == layout_.options()) return layout_;
  return make_layout(options, context_, model_->tokenizer().word_starts());
}

attention::KvStore Reading::fork() const {
  const std::scoped_lock lock(fork_mutex_);
  return store_.fork();
}

}  // namespace gsa::engine
