#pragma once

#include <ATen/core/Tensor.h>

#include <chrono>
#include <cstdint>
#include <span>
#include <vector>

#include "attention/read_meter.h"
#include "engine/conversation.h"
#include "engine/sampler.h"
#include "engine/session.h"
#include "engine/stop_filter.h"
#include "text/detokenizer.h"

namespace gsa::engine {

/// The stream of an answer: ids in, text out that is whole characters and no part of a stop string.
class TextStream {
 public:
  /// Both must outlive the stream.
  TextStream(const text::Tokenizer& tokenizer, const GenerateOptions& options);

  /// False once a stop string has come.
  bool push(std::int32_t id);
  /// Ends the stream; true if its last characters completed a stop string.
  bool finish();
  std::string take_text() { return std::move(text_); }

 private:
  void emit(const std::string& piece);

  text::Detokenizer detokenizer_;
  StopFilter filter_;
  const std::function<void(std::string_view)>& on_token_;
  std::string text_;
};

/// One answer while it is generated. The caller feeds `input` to the conversation and hands over
/// the scores that follow, until the turn is over.
class Turn {
 public:
  /// Behind `input`, whose last `num_prompt` tokens are the prompt. `generate` and the conversation
  /// must outlive the turn; `options` say how the conversation is folded.
  Turn(const model::Model& model, Conversation& conversation, const SessionOptions& options,
       const GenerateOptions& generate, std::vector<std::int64_t> input, std::size_t num_prompt,
       std::int64_t max_answer);

  bool is_over() const { return is_over_; }
  Conversation& conversation() { return *conversation_; }
  attention::ReadMeter& meter() { return meter_; }
  /// Runs all of the input.
  void feed_input();
  /// The one token to be fed next, after the first step.
  std::int64_t next_token() const { return pending_.front(); }
  /// What follows the tokens that were fed: [vocab] f32 on the CPU.
  void take(const at::Tensor& logits);
  /// Chooses the next token, or ends the turn.
  void step();

  /// The answer, and the token generated last if its keys and values are not stored.
  Answer finish();
  std::vector<std::int64_t> take_pending() { return std::move(pending_); }

 private:
  std::int32_t sample();
  void end(FinishReason reason);
  void measure();

  const model::Model* model_;
  Conversation* conversation_;
  const SessionOptions* options_;
  const GenerateOptions* generate_;
  std::vector<std::int64_t> pending_;  // not fed yet
  std::int64_t max_answer_;
  Sampler sampler_;
  TextStream stream_;
  attention::ReadMeter meter_;
  at::Tensor logits_;
  Answer answer_;
  bool is_over_ = false;
  std::chrono::steady_clock::time_point start_, first_token_time_;
};

/// Runs turns of one model to their ends: inputs one after the other, then token by token, one
/// forward for all turns that are not over.
void run_turns(std::span<Turn> turns);

}  // namespace gsa::engine
