#pragma once

#include <cstdint>
#include <vector>

#include "attention/key_runs.h"
#include "attention/layout.h"

namespace gsa::attention {

/// Means of the raw keys of every chunk, per layer, in f32, perhaps with the keys of their gists
/// added: what `meanpool` and gsa with `route=mean|both` score, for single rows on the CPU. Kept
/// from row to row; a row computes those of new chunks.
class MeanKeys {
 public:
  /// Both are kept by reference.
  MeanKeys(const KeyAddresses& keys, const Layout& layout, bool adds_gists)
      : keys_(keys), layout_(layout), adds_gists_(adds_gists) {}

  /// Looks at a layer, which `keys` has loaded, and computes what is missing of it.
  void load(std::int64_t layer);

  /// Appends the means of chunks of a KV head to `runs`, as keys; they have no values. One run.
  void add_runs(Range chunks, std::int64_t kv_head, std::vector<kernels::KeyRun>& runs) const;

 private:
  struct Layer {
    std::vector<std::vector<float>> means;  // per KV head [chunks, d]
    std::int64_t num_chunks = 0;
  };

  void add_mean(std::int64_t kv_head, std::int64_t chunk, std::vector<float>& means);
  void add_to(float* sums, int level, Range entries, std::int64_t kv_head);

  const KeyAddresses& keys_;
  const Layout& layout_;
  bool adds_gists_;
  std::vector<Layer> layers_;
  std::int64_t layer_ = -1;
  std::vector<kernels::KeyRun> runs_;  // scratch
  std::vector<float> row_;             // [d] scratch
};

}  // namespace gsa::attention
