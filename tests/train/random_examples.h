#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "core/rng.h"
#include "train/example.h"

namespace gsa::train {

/// Ids of the small models' tokenizer, special tokens left out.
inline std::vector<std::int32_t> random_tokens(core::Rng& rng, std::int64_t len) {
  std::vector<std::int32_t> tokens;
  for (std::int64_t i = 0; i < len; ++i)
    tokens.push_back(3 + static_cast<std::int32_t>(rng.below(290)));
  return tokens;
}

/// A row of documents of these lengths, with suffixes of a few tokens each.
inline Example random_example(core::Rng& rng, const std::vector<std::int64_t>& piece_lens,
                              int num_suffixes = 0) {
  Example example;
  for (const std::int64_t len : piece_lens) example.pieces.push_back(random_tokens(rng, len));
  for (int i = 0; i < num_suffixes; ++i) {
    const auto num_prompt = static_cast<std::int64_t>(rng.below(5));
    example.suffixes.push_back({random_tokens(rng, num_prompt + 2 + rng.below(4)), num_prompt});
  }
  return example;
}

}  // namespace gsa::train
