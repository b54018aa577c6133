#pragma once

#include <ATen/core/Tensor.h>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "attention/batch.h"
#include "attention/kv_store.h"
#include "attention/layout.h"
#include "attention/policy.h"
#include "attention/read_meter.h"
#include "engine/reading.h"
#include "model/decode_step.h"
#include "model/model.h"

namespace gsa::engine {

/// The tokens of one conversation under one policy: a forked context and the suffix that grows
/// behind it. No text here; Session turns text into tokens and back.
class Conversation {
 public:
  /// Starts behind a reading that serves the policy.
  Conversation(std::shared_ptr<const model::Model> model, std::unique_ptr<attention::Policy> policy,
               const Reading& reading);
  Conversation(const Conversation&) = delete;  // `attention_` refers to members
  Conversation& operator=(const Conversation&) = delete;

  /// Runs tokens as suffix, in segments, and returns the scores that follow the last one: [vocab]
  /// f32 on the CPU, which the next call may overwrite. Several tokens are a prompt, a single one
  /// goes on with the answer. `meter` counts what the last token's queries read. If it throws, the
  /// conversation must not be used any more.
  at::Tensor feed(std::span<const std::int64_t> tokens, std::int64_t segment_len,
                  attention::ReadMeter* meter);

  /// One token more in each of several conversations of one model, in one forward: linear layers
  /// run for all of them at once, attention for each. Returns [B, vocab] f32 on the CPU. As many
  /// tokens and meters (nullptr: none) as conversations.
  static at::Tensor feed_together(std::span<Conversation* const> conversations,
                                  std::span<const std::int64_t> tokens,
                                  std::span<attention::ReadMeter* const> meters);

  /// Runs tokens as suffix and returns ln p of each but the first, given all before it. `meter`
  /// counts what all their queries read. The scores of a few rows exist at a time.
  std::vector<double> score(std::span<const std::int64_t> tokens, std::int64_t segment_len,
                            attention::ReadMeter* meter);

  /// Online gisting (method §1.9): the suffix becomes context. Its finished chunks get gists,
  /// computed from the keys that are stored already; what lies behind the last final cut stays raw.
  /// Does nothing without chunks.
  void fold();

  /// Raw tokens whose keys and values are stored.
  std::int64_t num_raw() const { return store_.len(attention::kRawLevel); }
  /// Raw tokens behind the context that are not folded.
  std::int64_t num_unfolded() const {
    return num_raw() - std::max(num_context_, layout_.num_folded());
  }
  const attention::Layout& layout() const { return layout_; }
  const attention::KvStore& store() const { return store_; }
  /// Keys and values held, and the keys of chunks where the policy chooses by them; what is shared
  /// counts.
  std::int64_t store_bytes() const {
    const attention::ChunkKeys* chunk_keys = policy_->chunk_keys();
    return store_.bytes() + (chunk_keys == nullptr ? 0 : chunk_keys->bytes());
  }

  /// Makes room for tokens to come, so that they append without copies.
  void reserve(std::int64_t num_tokens) { store_.reserve(attention::kRawLevel, num_tokens); }

 private:
  /// Which hidden states are wanted.
  enum class Rows { none, all };

  /// Hidden states [R, hidden] of the rows asked for; keys and values are stored.
  at::Tensor run(std::vector<attention::BatchSlice> slices, std::span<const std::int64_t> tokens,
                 std::span<const std::int64_t> positions, attention::ReadMeter* meter, Rows rows);
  /// The CPU kernels for single rows; nullptr if they do not serve this conversation.
  attention::StepAttention* step_attention();
  /// One row on them; an undefined tensor if they do not serve this conversation or model.
  at::Tensor step(std::int64_t token, attention::ReadMeter* meter);
  at::Tensor feed_segment(std::span<const std::int64_t> tokens, attention::ReadMeter* meter,
                          Rows rows);

  std::shared_ptr<const model::Model> model_;
  std::unique_ptr<attention::Policy> policy_;
  attention::Layout layout_;
  attention::KvStore store_;
  std::int64_t num_context_;
  std::vector<std::int64_t> tokens_;  // all raw tokens stored; the suffix from layout_.num_raw() on
  bool has_tried_steps_ = false;
  std::unique_ptr<attention::StepAttention> attention_;
  std::unique_ptr<model::DecodeStep> step_;  // not without attention_
};

}  // namespace gsa::engine
