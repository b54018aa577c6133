#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "attention/batch.h"
#include "attention/layout.h"
#include "attention/policy.h"
#include "train/example.h"

namespace gsa::train {

/// The policy of training rows with these chunk sizes: `gsa@CHUNKS[:keys]`, or `full` if there are
/// none.
attention::PolicySpec row_policy(const attention::ChunkSizes& chunk_sizes, std::string_view keys);

/// Such a policy as the user writes it, without keys that all have: its chunk sizes and keys of its
/// own, as `16`, `4-4` or `16:read=full`, or `full` without gists.
std::string row_policy_name(const attention::PolicySpec& policy, std::string_view common_keys);

/// Labels that follow each other and weigh alike.
struct BareLabels {
  std::int64_t count = 0;
  double weight = 1;  ///< of each
};

/// Some training rows as one batch, with the rows that have a label, and everything the batch
/// points to. Keep it until backward has run.
struct PackedRows {
  attention::Batch batch;
  at::Tensor rows;           // [R] int64: rows of the batch that predict a label
  at::Tensor labels;         // [R] int64
  std::int64_t num_raw = 0;  ///< raw tokens, suffixes included
  /// Labels of bare rows, those without suffixes, in their order.
  std::vector<BareLabels> bare_labels;

  std::vector<std::unique_ptr<attention::Layout>> layouts;
  std::vector<std::unique_ptr<attention::Policy>> policies;
  std::vector<std::vector<std::int64_t>> contexts;  // raw ids

  std::int64_t num_tokens() const { return batch.num_rows(); }  ///< raw tokens and gists
  std::int64_t num_labels() const { return labels.size(0); }
  std::int64_t num_bare_labels() const;
  std::int64_t num_asked_labels() const { return num_labels() - num_bare_labels(); }
  /// Sum of the weights of all labels: 1 for those of answers.
  double label_weight() const;

  /// Moves the tensors; from pinned memory without waiting.
  void to(at::Device device);
};

struct PackOptions {
  bool pins_memory = false;
  std::int64_t max_labels = 0;       ///< of a bare row: the last so many; 0: all
  std::int64_t max_bare_weight = 0;  ///< of all labels of a bare row together; 0: any
};

/// Lays out and packs one sequence per example, `[context | g0 | g1 ... | suffixes]` each, on the
/// CPU. Without suffixes every raw token predicts the next one of its row (pieces follow each
/// other, gists are no targets); with them, loss is on the answers alone, and the suffixes are
/// branches that do not see each other. `policies` has one entry per example; `word_starts` one bit
/// per token id. Input error for a row without tokens or with an id outside the vocabulary.
PackedRows pack_rows(std::span<const Example> examples,
                     std::span<const attention::PolicySpec> policies,
                     const std::vector<bool>& word_starts, const PackOptions& options = {});

}  // namespace gsa::train
