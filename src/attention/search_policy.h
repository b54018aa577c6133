#pragma once

#include "attention/policy.h"

namespace gsa::attention {

/// Policies that search chunks and unfold the best ones: gsa (over one or more levels of gists),
/// meanpool, quest and random. They differ in what scores a node.
class SearchPolicy : public Policy {
 public:
  explicit SearchPolicy(PolicySpec spec) : Policy(std::move(spec)) {}

  StaticRule context_rule(int level) const override;
  StaticRule suffix_rule(std::int64_t layer) const override;
  /// Layer 0 does not select: all gists of a level have the same input there (method §3.5).
  bool selects(std::int64_t layer) const override { return layer > 0; }
  bool uses_gists() const override {
    return spec().read == PolicySpec::Read::gist || spec().name == "gsa";
  }
  bool is_query_aware() const override { return spec().name != "random"; }
  at::Tensor select(const SelectInput& input, VisibleSet& visible) override;

 protected:
  /// Scores of nodes for `num_searches` searches that share the KV heads evenly.
  ///   q    [T, H_kv, s, d] f32 queries (s searches per KV head)
  ///   ids  [T, H_kv * s, C] candidates, -1 none; undefined: all nodes of the level
  /// Returns f32 [T, H_kv * s, C]; scores of -1 candidates are arbitrary.
  virtual at::Tensor score(const SelectInput& input, int level, const at::Tensor& q,
                           const at::Tensor& ids) = 0;
  /// Vectors of the size of a key that scoring a node reads, as far as they count.
  virtual std::int64_t num_vectors(int level) const = 0;
  /// Whether nodes of a level are scored by other vectors than the keys of their gists.
  virtual bool scores_means(int level) const = 0;
};

/// gsa and meanpool: scores nodes by q . k_gist (method §3.1), chunks by q . mean of their raw
/// keys, by the sum of both, or by their true attention, as `spec.route` says.
std::unique_ptr<Policy> make_chunk_search(const PolicySpec& spec);
/// Quest (arXiv 2406.10774): scores pages by the upper bound sum_i max(q_i low_i, q_i high_i) that
/// the least and the largest key of the page, channel by channel, set to the score of its tokens.
/// The first `dense_layers` layers and the rows of a prompt before its last one attend in full, as
/// published. Pages end with their document.
std::unique_ptr<Policy> make_quest_search(const PolicySpec& spec);
/// Scores chunks by seeded noise.
std::unique_ptr<Policy> make_random_search(const PolicySpec& spec);

}  // namespace gsa::attention
