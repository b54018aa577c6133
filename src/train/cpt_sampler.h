#pragma once

#include <memory>

#include "text/tokenizer.h"
#include "train/sampler.h"
#include "train/shard.h"

namespace gsa::train {

/// Rows of continued pretraining: a window of text, cut to what fits. Every epoch sees every window
/// once, in an order of its own.
class CptSampler : public Sampler {
 public:
  CptSampler(std::shared_ptr<const CptShard> shard, const text::Tokenizer& tokenizer);

  /// One piece and no suffixes. Input error if `max_tokens` has no room for two tokens.
  Example row(const RowRequest& request) const override;

 private:
  std::shared_ptr<const CptShard> shard_;
  text::Tokenizer tokenizer_;
};

}  // namespace gsa::train
