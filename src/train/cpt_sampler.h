#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "text/tokenizer.h"
#include "train/sampler.h"
#include "train/shard.h"

namespace gsa::train {

/// A row of nothing but the longest beginning of a text that fits: one piece and no suffixes. Input
/// error if `max_tokens` has no room for two tokens.
Example bare_row(std::vector<std::int32_t> text, const RowRequest& request,
                 const std::vector<bool>& word_starts);

/// Rows of continued pretraining: a window of text, cut to what fits. Every epoch sees every window
/// once, in an order of its own.
class CptSampler : public Sampler {
 public:
  CptSampler(std::shared_ptr<const CptShard> shard, const text::Tokenizer& tokenizer);

  /// See `bare_row`.
  Example row(const RowRequest& request) const override;

 private:
  std::shared_ptr<const CptShard> shard_;
  text::Tokenizer tokenizer_;
};

}  // namespace gsa::train
