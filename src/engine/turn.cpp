#include "engine/turn.h"

#include <algorithm>
#include <utility>

namespace gsa::engine {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_between(Clock::time_point start, Clock::time_point end) {
  return std::chrono::duration<double>(end - start).count();
}

}  // namespace

TextStream::TextStream(const text::Tokenizer& tokenizer, const GenerateOptions& options)
    : detokenizer_(tokenizer), filter_(options.stop), on_token_(options.on_token) {}

bool TextStream::push(std::int32_t id) {
  emit(filter_.push(detokenizer_.push(id)));
  return !filter_.has_stopped();
}

bool TextStream::finish() {
  emit(filter_.push(detokenizer_.finish()));
  emit(filter_.finish());
  return filter_.has_stopped();
}

void TextStream::emit(const std::string& piece) {
  if (piece.empty()) return;
  text_ += piece;
  if (on_token_) on_token_(piece);
}

Turn::Turn(const model::Model& model, Conversation& conversation, const SessionOptions& options,
           const GenerateOptions& generate, std::vector<std::int64_t> input, std::size_t num_prompt,
           std::int64_t max_answer)
    : model_(&model),
      conversation_(&conversation),
      options_(&options),
      generate_(&generate),
      pending_(std::move(input)),
      max_answer_(max_answer),
      sampler_(generate.sampling),
      stream_(model.tokenizer(), generate) {
  const auto prompt = std::span(pending_).last(num_prompt);
  sampler_.observe(std::vector<std::int32_t>(prompt.begin(), prompt.end()));
  answer_.num_prompt_tokens = static_cast<std::int64_t>(num_prompt);
}

void Turn::feed_input() {
  start_ = Clock::now();
  conversation_->reserve(static_cast<std::int64_t>(pending_.size()) + max_answer_);
  take(conversation_->feed(pending_, options_->segment_len, &meter_));
  first_token_time_ = Clock::now();
}

void Turn::take(const at::Tensor& logits) {
  logits_ = logits;
  pending_.clear();
  if (options_->online_gisting && conversation_->num_unfolded() > options_->online_window)
    conversation_->fold();
}

/// One token of the vocabulary; rows that pad the output have no text and are never chosen.
std::int32_t Turn::sample() {
  const std::span<const float> scores(logits_.const_data_ptr<float>(), logits_.numel());
  return sampler_.sample(scores.first(model_->tokenizer().vocab_size()));
}

void Turn::end(FinishReason reason) {
  answer_.finish_reason = reason;
  is_over_ = true;
}

void Turn::step() {
  if (generate_->cancel.stop_requested()) return end(FinishReason::cancelled);
  const std::int32_t id = sample();
  if (++answer_.num_tokens == 1) first_token_time_ = Clock::now();
  const auto& ends = model_->tokenizer().end_of_turn_ids();
  if (std::find(ends.begin(), ends.end(), id) != ends.end()) return end(FinishReason::stop);
  answer_.tokens.push_back(id);
  pending_ = {id};
  if (!stream_.push(id)) return end(FinishReason::stop_string);
  if (answer_.num_tokens == max_answer_) end(FinishReason::length);
}

Answer Turn::finish() {
  if (stream_.finish()) answer_.finish_reason = FinishReason::stop_string;
  answer_.text = stream_.take_text();
  answer_.prompt_seconds = seconds_between(start_, first_token_time_);
  answer_.decode_seconds = seconds_between(first_token_time_, Clock::now());
  measure();
  return std::move(answer_);
}

void Turn::measure() {
  const attention::KvShape& shape = conversation_->store().shape();
  answer_.fraction_read = meter_.fraction();
  const double num_queries =
      static_cast<double>(meter_.num_query_layers()) / static_cast<double>(shape.num_layers);
  answer_.kv_bytes_per_token =
      meter_.keys_read() / num_queries * static_cast<double>(kv_entry_bytes(shape));
  answer_.store_bytes = conversation_->store_bytes();
}

void run_turns(std::span<Turn> turns) {
  for (Turn& turn : turns) {
    turn.feed_input();
    turn.step();
  }
  while (true) {
    std::vector<Turn*> open;
    std::vector<Conversation*> conversations;
    std::vector<std::int64_t> tokens;
    std::vector<attention::ReadMeter*> meters;
    for (Turn& turn : turns) {
      if (turn.is_over()) continue;
      open.push_back(&turn);
      conversations.push_back(&turn.conversation());
      tokens.push_back(turn.next_token());
      meters.push_back(&turn.meter());
    }
    if (open.empty()) return;
    const at::Tensor logits = Conversation::feed_together(conversations, tokens, meters);
    for (std::size_t i = 0; i < open.size(); ++i) {
      open[i]->take(logits[static_cast<std::int64_t>(i)]);
      open[i]->step();
    }
  }
}

}  // namespace gsa::engine
