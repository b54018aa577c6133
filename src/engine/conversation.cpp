#include "engine/conversation.h"

#include <ATen/ops/tensor.h>
#include <c10/core/InferenceMode.h>

#include <numeric>
#include <utility>

#include "core/error.h"

namespace gsa::engine {

using attention::kRawLevel;

Conversation::Conversation(std::shared_ptr<const model::Model> model,
                           std::unique_ptr<attention::Policy> policy, const Reading& reading)
    : model_(std::move(model)),
      policy_(std::move(policy)),
      layout_(reading.layout(policy_->spec().layout)),
      store_(reading.fork()),
      num_context_(layout_.num_raw()) {}

at::Tensor Conversation::run(std::vector<attention::BatchSlice> slices,
                             std::span<const std::int64_t> tokens,
                             std::span<const std::int64_t> positions, attention::ReadMeter* meter,
                             bool wants_last_row) {
  const c10::InferenceMode guard;
  const auto to_device = [&](std::span<const std::int64_t> values) {
    return at::tensor(at::IntArrayRef(values.data(), values.size()), at::kLong)
        .to(model_->device());
  };
  attention::Batch batch{to_device(tokens), to_device(positions), {}};
  batch.sequences.push_back({&layout_, policy_.get(), &store_, meter, std::move(slices)});
  const std::int64_t last = batch.num_rows() - 1;
  const auto rows = wants_last_row ? to_device({&last, 1}) : to_device({});
  return model_->forward(batch, {rows});
}

at::Tensor Conversation::feed_segment(std::span<const std::int64_t> tokens,
                                      attention::ReadMeter* meter, bool wants_last_row) {
  const std::int64_t begin = num_raw();
  const auto count = static_cast<std::int64_t>(tokens.size());
  std::vector<std::int64_t> positions(count);
  std::iota(positions.begin(), positions.end(), begin);
  at::Tensor hidden =
      run({{{kRawLevel, begin, count}, 0, true}}, tokens, positions, meter, wants_last_row);
  suffix_.insert(suffix_.end(), tokens.begin(), tokens.end());
  return hidden;
}

at::Tensor Conversation::feed(std::span<const std::int64_t> tokens, std::int64_t segment_len,
                              attention::ReadMeter* meter) {
  if (tokens.empty()) core::internal_error("conversation: no tokens to run");
  // The last token runs alone: only its scores are used, so only what it reads is counted.
  std::span before = tokens.first(tokens.size() - 1);
  while (!before.empty()) {
    const std::size_t len = std::min(before.size(), static_cast<std::size_t>(segment_len));
    feed_segment(before.first(len), nullptr, false);
    before = before.subspan(len);
  }
  const at::Tensor hidden = feed_segment(tokens.last(1), meter, true);
  const c10::InferenceMode guard;
  return model_->logits(hidden).squeeze(0).to(at::kCPU).contiguous();
}

void Conversation::fold() {
  if (layout_.num_levels() == 0 || suffix_.empty()) return;
  layout_.append(word_start_bytes(suffix_, model_->tokenizer().word_starts()));
  suffix_.clear();
  if (!policy_->uses_gists()) return;
  std::vector<attention::BatchSlice> slices;
  std::vector<std::int64_t> positions;
  for (int level = 0; level < layout_.num_levels(); ++level) {
    const std::int64_t begin = store_.len(level), end = layout_.num_nodes(level);
    if (begin == end) continue;
    slices.push_back(
        {{level, begin, end - begin}, static_cast<std::int64_t>(positions.size()), false});
    for (std::int64_t node = begin; node < end; ++node)
      positions.push_back(layout_.position(level, node));
  }
  if (slices.empty()) return;
  // A gist's embedding comes from its level, so it needs no token.
  run(std::move(slices), std::vector<std::int64_t>(positions.size()), positions, nullptr, false);
}

}  // namespace gsa::engine
