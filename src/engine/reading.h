#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include "attention/kv_store.h"
#include "attention/layout.h"
#include "attention/policy.h"
#include "model/model.h"

namespace gsa::engine {

/// Called after every segment with the context tokens read so far. An exception from it stops the
/// reading.
using ReadProgress = std::function<void(std::int64_t num_read, std::int64_t num_total)>;

/// Tokens of a context, piece by piece: each piece is chunked for itself (method §1.6).
struct ContextTokens {
  std::vector<std::int64_t> ids;
  std::vector<std::int64_t> piece_ends;  ///< ascending; the last one is the number of tokens
};

/// A context as a model has read it: keys and values of every raw token and gist. Never changed
/// once made; sessions work on forks, from any thread. Keys and values depend on the model and
/// on the rule under which the context is read, not on what a policy selects later, so policies may
/// share one. It also has the chunk keys of the policy that read it, for all of the same route and
/// layout; others compute theirs in every conversation.
class Reading {
 public:
  /// Reads segment by segment: memory grows with the store, not with the square of the length. A
  /// segment has at most `segment_len` tokens, and in a longer context at most as many rows, gists
  /// included.
  /// Input error for an empty context, ids outside the vocabulary and wrong piece ends; resource
  /// error, before the first step, if keys and values would not fit the memory that is free.
  static std::shared_ptr<const Reading> read(std::shared_ptr<const model::Model> model,
                                             const attention::PolicySpec& spec,
                                             ContextTokens context, std::int64_t segment_len,
                                             const ReadProgress& progress = {});

  /// A context whose keys and values, those of gists too, are random numbers instead of what the
  /// model would compute: for timing what follows a context that takes long to read. Errors as
  /// `read`; input error, too, for a policy that keeps what it observes while a context is read.
  static std::shared_ptr<const Reading> random(std::shared_ptr<const model::Model> model,
                                               const attention::PolicySpec& spec,
                                               ContextTokens context, std::uint64_t seed);

  /// Whether a policy on a model would read this context to the same keys and values.
  bool serves(const model::Model& model, const attention::PolicySpec& spec) const;

  /// The policy that read the context; those of conversations follow it.
  const attention::Policy& policy() const { return *policy_; }
  const ContextTokens& context() const { return context_; }
  std::int64_t num_tokens() const { return static_cast<std::int64_t>(context_.ids.size()); }
  double seconds() const { return seconds_; }
  /// Keys and values of the context in bytes, and the keys of its chunks where the policy that read
  /// it chooses by them.
  std::int64_t store_bytes() const { return store_bytes_; }

  /// The context's layout under the options of a policy that this reading serves: policies without
  /// gists share keys and values whatever their chunks are.
  attention::Layout layout(const attention::LayoutOptions& options) const;
  /// A store that begins with this context.
  attention::KvStore fork() const;

 private:
  Reading(std::shared_ptr<const model::Model> model, const attention::PolicySpec& spec,
          ContextTokens context);
  static void check_context(const ContextTokens& context, const model::ModelConfig& config);
  /// Makes room in the store; resource error if there is none.
  void reserve();
  void fill_randomly(std::uint64_t seed);
  std::int64_t segment_end(std::int64_t begin, std::int64_t segment_len) const;
  void run(std::int64_t segment_len, const ReadProgress& progress);
  /// Computes what conversations share beside keys and values, once these are complete.
  void finish();

  std::shared_ptr<const model::Model> model_;
  std::unique_ptr<attention::Policy> policy_;  // of the first reader
  ContextTokens context_;
  attention::Layout layout_;
  mutable std::mutex fork_mutex_;
  mutable attention::KvStore store_;  // its content is fixed, but it notes that forks share it
  double seconds_ = 0;
  std::int64_t store_bytes_ = 0;
};

/// The layout of a context; `word_starts` has a bit per token id.
attention::Layout make_layout(const attention::LayoutOptions& options, const ContextTokens& context,
                              const std::vector<bool>& word_starts);

/// Boundary bits of tokens, as `Layout::append` takes them.
std::vector<std::uint8_t> word_start_bytes(std::span<const std::int64_t> ids,
                                           const std::vector<bool>& word_starts);

/// Resource error that tells what is needed, unless the keys and values of a layout's tokens and
/// gists fit in `available_bytes`, with the keys of chunks if a policy has such.
void check_memory(const attention::KvShape& shape, const attention::Layout& layout,
                  bool has_chunk_keys, std::int64_t available_bytes);

/// Bytes of one key with its value, of one layer and KV head.
std::int64_t kv_entry_bytes(const attention::KvShape& shape);

/// Keys that the context's own tokens and gists attend, divided by those of a full causal reading
/// of the raw tokens (method §3.6). Follows from the layout and the policy's context rules alone;
/// exceeds 1 for very short contexts.
double prefill_fraction(const attention::Layout& layout, const attention::Policy& policy);

}  // namespace gsa::engine
