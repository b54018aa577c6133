#include "engine/conversation.h"

#include <ATen/ops/gather.h>
#include <ATen/ops/logsumexp.h>
#include <c10/core/InferenceMode.h>

#include <cmath>
#include <numeric>
#include <utility>

#include "attention/selection.h"
#include "core/error.h"
#include "engine/trace.h"

namespace gsa::engine {

using attention::kRawLevel;
using attention::to_tensor;

Conversation::Conversation(std::shared_ptr<const model::Model> model,
                           std::unique_ptr<attention::Policy> policy, const Reading& reading)
    : model_(std::move(model)),
      policy_(std::move(policy)),
      layout_(reading.layout(policy_->spec().layout)),
      store_(reading.fork()),
      num_context_(layout_.num_raw()),
      tokens_(reading.context().ids) {
  constexpr std::size_t kSuffixTokens = 4096;  // that are fed before memory is asked for
  tokens_.reserve(tokens_.size() + kSuffixTokens);
  policy_->follow(reading.policy());
}

at::Tensor Conversation::run(std::vector<attention::BatchSlice> slices,
                             std::span<const std::int64_t> tokens,
                             std::span<const std::int64_t> positions, attention::ReadMeter* meter,
                             Rows rows) {
  const c10::InferenceMode guard;
  const at::Device device = model_->device();
  attention::Batch batch{to_tensor(tokens, device), to_tensor(positions, device), {}};
  batch.sequences.push_back(
      {&layout_, policy_.get(), &store_, meter, std::move(slices), step_attention(), tokens_});
  return model_->forward(batch, {rows == Rows::all ? at::Tensor() : to_tensor({}, device)});
}

at::Tensor Conversation::feed_segment(std::span<const std::int64_t> tokens,
                                      attention::ReadMeter* meter, Rows rows) {
  const std::int64_t begin = num_raw();
  const auto count = static_cast<std::int64_t>(tokens.size());
  std::vector<std::int64_t> positions(count);
  std::iota(positions.begin(), positions.end(), begin);
  at::Tensor hidden = run({{{kRawLevel, begin, count}, 0, true}}, tokens, positions, meter, rows);
  tokens_.insert(tokens_.end(), tokens.begin(), tokens.end());
  return hidden;
}

at::Tensor Conversation::feed(std::span<const std::int64_t> tokens, std::int64_t segment_len,
                              attention::ReadMeter* meter) {
  if (tokens.empty()) core::internal_error("conversation: no tokens to run");
  // The last token runs alone: only its scores are used, so only what it reads is counted.
  std::span before = tokens.first(tokens.size() - 1);
  if (!before.empty()) policy_->begin_prompt();
  while (!before.empty()) {
    const std::size_t len = std::min(before.size(), static_cast<std::size_t>(segment_len));
    feed_segment(before.first(len), nullptr, Rows::none);
    before = before.subspan(len);
  }
  policy_->end_prompt();
  Conversation* const self = this;
  return feed_together({&self, 1}, tokens.last(1), {&meter, 1}).squeeze(0);
}

attention::StepAttention* Conversation::step_attention() {
  // A policy that is watched has to be asked, which these kernels do not do.
  const bool is_watched = dynamic_cast<const ForwardingPolicy*>(policy_.get()) != nullptr;
  if (!has_tried_steps_ && !is_watched) {
    const auto& config = model_->config();
    attention_ =
        attention::StepAttention::make(*policy_, store_, layout_, config.num_heads,
                                       1 / std::sqrt(static_cast<double>(config.head_dim)));
    if (attention_ && model::DecodeStep::supports(*model_))
      step_ = std::make_unique<model::DecodeStep>(model_);
  }
  has_tried_steps_ = true;
  return attention_.get();
}

at::Tensor Conversation::step(std::int64_t token, attention::ReadMeter* meter) {
  if (step_attention() == nullptr || !step_) return {};
  const at::Tensor& logits = (*step_)(token, num_raw(), *attention_, meter);
  tokens_.push_back(token);
  return logits;
}

at::Tensor Conversation::feed_together(std::span<Conversation* const> conversations,
                                       std::span<const std::int64_t> tokens,
                                       std::span<attention::ReadMeter* const> meters) {
  const c10::InferenceMode guard;
  if (conversations.size() == 1) {
    const at::Tensor logits = conversations[0]->step(tokens[0], meters[0]);
    if (logits.defined()) return logits.unsqueeze(0);
  }
  const model::Model& model = *conversations.front()->model_;
  std::vector<std::int64_t> positions;
  for (const Conversation* conversation : conversations)
    positions.push_back(conversation->num_raw());
  attention::Batch batch{
      to_tensor(tokens, model.device()), to_tensor(positions, model.device()), {}};
  for (std::size_t i = 0; i < conversations.size(); ++i) {
    Conversation& self = *conversations[i];
    const attention::BatchSlice slice{
        {kRawLevel, positions[i], 1}, static_cast<std::int64_t>(i), true};
    batch.sequences.push_back({&self.layout_,
                               self.policy_.get(),
                               &self.store_,
                               meters[i],
                               {slice},
                               self.step_attention()});
  }
  const at::Tensor hidden = model.forward(batch);
  for (std::size_t i = 0; i < conversations.size(); ++i)
    conversations[i]->tokens_.push_back(tokens[i]);
  return model.logits(hidden).to(at::kCPU).contiguous();
}

std::vector<double> Conversation::score(std::span<const std::int64_t> tokens,
                                        std::int64_t segment_len, attention::ReadMeter* meter) {
  constexpr std::int64_t kBlockLen = 128;  // rows of scores that exist at a time
  const std::int64_t step = std::min(segment_len, kBlockLen);
  const auto num_scored = static_cast<std::int64_t>(tokens.size()) - 1;
  std::vector<double> log_probs;
  for (std::int64_t begin = 0; begin < num_scored; begin += step) {
    const std::int64_t count = std::min(step, num_scored - begin);
    const at::Tensor hidden = feed_segment(tokens.subspan(begin, count), meter, Rows::all);
    const c10::InferenceMode guard;
    const at::Tensor logits = model_->logits(hidden);
    const at::Tensor targets = to_tensor(tokens.subspan(begin + 1, count), model_->device());
    const at::Tensor chosen = logits.gather(1, targets.unsqueeze(1)).squeeze(1);
    const at::Tensor block =
        chosen.sub(at::logsumexp(logits, 1)).to(at::kCPU, at::kDouble).contiguous();
    const double* values = block.const_data_ptr<double>();
    log_probs.insert(log_probs.end(), values, values + count);
  }
  return log_probs;
}

void Conversation::fold() {
  const auto suffix = std::span<const std::int64_t>(tokens_).subspan(layout_.num_raw());
  if (layout_.num_levels() == 0 || suffix.empty()) return;
  layout_.append(word_start_bytes(suffix, model_->tokenizer().word_starts()));
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
  // A gist's embedding comes from its level and from tokens that the sequence brings.
  run(std::move(slices), std::vector<std::int64_t>(positions.size()), positions, nullptr,
      Rows::none);
}

}  // namespace gsa::engine
