#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "attention/key_runs.h"
#include "attention/kv_store.h"
#include "attention/layout.h"
#include "attention/policy.h"
#include "attention/read_meter.h"
#include "attention/step_search.h"
#include "attention/torch_parallel.h"
#include "attention/visible.h"

namespace gsa::attention {

/// Attention of single suffix rows on the CPU, layer by layer, without tensors: what BatchAttention
/// gives for a batch of one row; BatchAttention hands it the rows of a question that select.
/// Serves the policies whose visible set follows from the layout
/// (full, streaming, gist-only), gsa and meanpool. Allocates nothing while the store has room and
/// the layout stays as it is. One per conversation.
class StepAttention {
 public:
  /// nullptr if the policy, the store or the head size is of a kind it does not serve (the caller
  /// then uses BatchAttention). All are kept by reference; the layout may grow between rows.
  static std::unique_ptr<StepAttention> make(Policy& policy, KvStore& store, const Layout& layout,
                                             std::int64_t num_heads, double scale);

  /// Begins raw entry `raw_idx`, which lies behind the context; `meter` may be nullptr.
  void begin(std::int64_t raw_idx, ReadMeter* meter);

  /// Appends k and v to the raw arena of the layer, whose next entry the row is; selects and
  /// attends.
  ///   q, out [H, d], k, v [H_kv, d], f32; q and k after RoPE
  void operator()(std::int64_t layer, const float* q, const float* k, const float* v, float* out);

  /// The same for a row whose keys and values the layer has already, and perhaps those of later
  /// rows, which it does not see.
  void attend(std::int64_t layer, const float* q, float* out);

 private:
  StepAttention(Policy& policy, KvStore& store, const Layout& layout, std::int64_t num_heads,
                double scale);

  void attend_loaded(std::int64_t layer, const float* q, float* out);
  void list_runs(std::int64_t kv_head, bool has_selection);
  void add(int level, Range entries, std::int64_t kv_head);
  void add_selected_tokens(std::int64_t kv_head);
  void add_selected_gists(std::int64_t kv_head);
  std::int64_t most_runs(bool has_selection) const;

  Policy& policy_;
  KvStore& store_;
  const Layout& layout_;
  kernels::DecodeShape shape_;
  TorchParallel parallel_;
  KeyAddresses keys_;
  std::optional<StepSearch> search_;
  std::int64_t raw_idx_ = -1;
  ReadMeter* meter_ = nullptr;
  RowRanges row_;                       // what the layer's queries see anyway
  std::optional<StaticRule> row_rule_;  // that `row_` was made by
  struct HeadRuns {
    std::vector<kernels::KeyRun> runs;
    std::int64_t num_keys = 0;
  };
  std::vector<HeadRuns> runs_;           // [H_kv]
  std::vector<kernels::KeyRuns> views_;  // [H_kv]
  at::Tensor scratch_;
};

}  // namespace gsa::attention
