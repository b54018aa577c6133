#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "attention/policy.h"

namespace gsa::engine {

/// What one query selected in one layer.
struct LayerSelection {
  std::int64_t layer = 0;
  std::vector<std::vector<std::int64_t>> chunks;  ///< per KV head: chunks unfolded, ascending
  std::vector<std::vector<std::vector<std::int64_t>>>
      gists;  ///< per level and KV head: gists visible, ascending
  std::vector<std::vector<std::int64_t>> tokens;  ///< per KV head: single raw tokens, ascending
};

/// A policy that behaves as another one: what wrappers that watch it derive from.
class ForwardingPolicy : public attention::Policy {
 public:
  explicit ForwardingPolicy(std::unique_ptr<attention::Policy> policy)
      : Policy(policy->spec()), policy_(std::move(policy)) {}

  attention::StaticRule context_rule(int level) const override {
    return policy_->context_rule(level);
  }
  attention::StaticRule suffix_rule(std::int64_t layer) const override {
    return policy_->suffix_rule(layer);
  }
  bool selects(std::int64_t layer) const override { return policy_->selects(layer); }
  at::Tensor select(const attention::SelectInput& input, attention::VisibleSet& visible) override {
    return policy_->select(input, visible);
  }
  bool uses_gists() const override { return policy_->uses_gists(); }
  bool is_query_aware() const override { return policy_->is_query_aware(); }
  bool observes_context() const override { return policy_->observes_context(); }
  void observe(std::int64_t layer, const at::Tensor& mass) override {
    policy_->observe(layer, mass);
  }
  const attention::ChunkKeys* chunk_keys() const override { return policy_->chunk_keys(); }
  void update_chunk_keys(std::int64_t layer, const attention::KvArenas& arenas,
                         const attention::Layout& layout) override {
    policy_->update_chunk_keys(layer, arenas, layout);
  }
  void follow(const attention::Policy& reader) override { policy_->follow(reader); }
  void begin_prompt() override { policy_->begin_prompt(); }
  void end_prompt() override { policy_->end_prompt(); }
  void truncate(std::int64_t num_raw) override { policy_->truncate(num_raw); }

 private:
  std::unique_ptr<attention::Policy> policy_;
};

/// A policy that behaves as another one and writes down what the last query of every batch
/// selected.
class TracingPolicy final : public ForwardingPolicy {
 public:
  /// `trace` must outlive this object; it is replaced with every batch (when the first selecting
  /// layer comes again).
  TracingPolicy(std::unique_ptr<attention::Policy> policy, std::vector<LayerSelection>& trace);

  at::Tensor select(const attention::SelectInput& input, attention::VisibleSet& visible) override;

 private:
  std::vector<LayerSelection>& trace_;
};

}  // namespace gsa::engine
