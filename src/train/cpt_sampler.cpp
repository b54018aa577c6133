#include "train/cpt_sampler.h"

#include <utility>

#include "core/error.h"
#include "train/context_cost.h"
#include "train/permutation.h"

namespace gsa::train {

Example bare_row(std::vector<std::int32_t> text, const RowRequest& request,
                 const std::vector<bool>& word_starts) {
  const std::int64_t len = longest_prefix(request.layout, PiecePlace::first,
                                          boundary_bits(text, word_starts), request.max_tokens);
  constexpr std::int64_t min_len = 2;  // the first token is no target
  if (len < min_len) {
    core::input_error("training rows: {} tokens have no room for text: give more per row",
                      request.max_tokens);
  }
  text.resize(len);
  Example example;
  example.pieces.push_back(std::move(text));
  return example;
}

CptSampler::CptSampler(std::shared_ptr<const CptShard> shard, const text::Tokenizer& tokenizer)
    : shard_(std::move(shard)), tokenizer_(tokenizer) {}

Example CptSampler::row(const RowRequest& request) const {
  const std::int64_t num_windows = shard_->num_windows();
  const auto epoch = static_cast<std::uint64_t>(request.index / num_windows);
  const Permutation order(num_windows, mix(request.seed, epoch));
  return bare_row(shard_->window(order(request.index % num_windows)), request,
                  tokenizer_.word_starts());
}

}  // namespace gsa::train
