#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "text/bpe.h"

namespace gsa::text {

/// Merges and the rank of each.
struct RankedMerges {
  std::vector<Bpe::Merge> merges;
  std::vector<std::uint32_t> ranks;
};

/// The merges that SentencePiece's rule stands for: two neighbours whose texts put together are a
/// token may be merged, the token of the highest score first. Tokens of equal scores have equal
/// ranks. Every character of a token is taken to be a token itself, as training leaves it.
/// `ids`: token of every text. `special`, `scores`: by id; special tokens take no part, and scores
/// are numbers.
RankedMerges merges_by_score(const std::unordered_map<std::string_view, std::int32_t>& ids,
                             const std::vector<bool>& special, std::span<const double> scores);

}  // namespace gsa::text
