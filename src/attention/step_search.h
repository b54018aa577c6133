#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "attention/budget.h"
#include "attention/chunk_keys.h"
#include "attention/key_runs.h"
#include "attention/layout.h"
#include "attention/policy.h"
#include "attention/visible.h"
#include "kernels/cpu/parallel.h"

namespace gsa::attention {

/// The search of a `gsa` or `meanpool` policy (method §3) for single query rows on the CPU: what
/// SearchPolicy::select chooses, without tensors. Memory is kept from row to row.
class StepSearch {
 public:
  /// All are kept by reference. chunk_keys: what the policy scores chunks by, or nullptr.
  StepSearch(const PolicySpec& spec, const ChunkKeys* chunk_keys, const KeyAddresses& keys,
             const Layout& layout, std::int64_t num_heads, double scale,
             kernels::Parallel& parallel);

  /// Chooses among the chunks of the layer that `keys` has loaded; there is one at least, and all
  /// have their chunk keys.
  ///   q    [H, d] f32
  ///   row  the static part of the visible set
  void choose(std::int64_t layer, const float* q, const RowRanges& row);

  /// What the last call chose for a KV head, ascending: chunks to unfold (level 0), gists.
  const std::vector<std::int32_t>& kept(int level, std::int64_t kv_head) const {
    return kept_[level * keys_.num_kv_heads() + kv_head];
  }
  /// Whether the chosen gists are themselves attended.
  bool attends_gists() const {
    return spec_.name == "gsa" && spec_.gists == PolicySpec::Gists::selected;
  }
  /// Keys that were scored and are not attended, of all KV heads.
  std::int64_t num_scored_only() const { return num_scored_only_; }

 private:
  /// One search: its candidates at a level and what it has chosen.
  struct Search {
    std::int64_t kv_head = 0;
    const float* q = nullptr;                       // [d]
    std::vector<kernels::KeyRun> runs;              // keys of the candidates
    std::vector<std::int32_t> candidates;           // their ids, ascending
    std::vector<float> scores;                      // their scores
    std::vector<std::int32_t> sortable;             // scratch of top_k
    std::vector<std::int32_t> picked;               // places among the candidates
    std::vector<std::vector<std::int32_t>> chosen;  // [levels] ids, ascending
    std::vector<std::int32_t> ranked;               // the chosen chunks, best first
  };

  void add_node_runs(int level, Range nodes, std::int64_t kv_head,
                     std::vector<kernels::KeyRun>& runs) const;
  bool scores_means(int level) const { return chunk_keys_ != nullptr && level == 0; }
  std::int64_t max_node_runs(int level) const {
    return scores_means(level) ? std::ssize(chunk_spans_) : keys_.max_runs(level);
  }
  void load_chunk_keys(std::int64_t layer);
  void prepare(std::int64_t layer, const float* q);
  void score_top();
  std::int64_t expected_nodes() const;
  void descend(Search& search);
  void list_candidates(Search& search, int level);
  void pick(Search& search, int level, std::span<const float> scores,
            std::span<const std::int32_t> ids);
  void keep_mass(Search& search, std::span<const float> scores);
  std::int64_t num_unfolded() const { return 1 + static_cast<std::int64_t>(spec_.unfold); }
  std::int32_t neighbour(std::int32_t chunk, std::int64_t i) const;
  void add_neighbours(std::vector<std::int32_t>& ranked) const;
  void unite(std::int64_t kv_head, int level);
  void keep_within_tokens(std::int64_t kv_head, const RowRanges& row);
  std::int64_t count_scored(std::int64_t kv_head, int level) const;
  std::int64_t count_unscored(std::int64_t kv_head, int level) const;
  std::span<Search> searches_of(std::int64_t kv_head);
  void collect_marked(std::int64_t num_nodes, std::vector<std::int32_t>& ids);

  const PolicySpec& spec_;
  const ChunkKeys* chunk_keys_;
  std::vector<KvAddresses> chunk_spans_;  // of the chunk keys of a layer
  const KeyAddresses& keys_;
  const Layout& layout_;
  double scale_;
  kernels::Parallel& parallel_;
  std::int64_t group_, per_head_;  // query heads and searches of a KV head
  std::vector<Search> searches_;   // [H_kv * per_head_]
  std::vector<float> sums_of_q_;   // [H_kv, d] in mode group
  BudgetContext context_;
  int top_ = 0;                    // the highest level that has nodes: scored as a whole
  std::vector<float> top_scores_;  // [H_kv * per_head_, nodes]
  std::vector<std::vector<kernels::KeyRun>> task_runs_;  // per task of score_top
  std::vector<std::uint64_t> marks_;                     // a bit per node of a level
  std::vector<std::vector<std::int32_t>> kept_;          // [levels, H_kv]
  std::int64_t num_scored_only_ = 0;
};

}  // namespace gsa::attention
