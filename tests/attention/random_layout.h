#pragma once

#include <vector>

#include "attention/layout.h"
#include "core/rng.h"

namespace gsa::attention {

/// Layout options of 1 to `max_levels` levels with small chunks, so that short texts have deep
/// trees.
inline LayoutOptions random_options(core::Rng& rng, int max_levels) {
  LayoutOptions options;
  const int num_levels = 1 + static_cast<int>(rng.below(max_levels));
  for (int level = 0; level < num_levels; ++level) {
    options.chunk_sizes.sizes.push_back(2 +
                                        static_cast<std::int32_t>(rng.below(level == 0 ? 6 : 3)));
  }
  options.num_sinks = static_cast<std::int32_t>(rng.below(5));
  options.num_local_chunks = static_cast<std::int32_t>(rng.below(4));
  options.boundary = rng.below(4) == 0 ? BoundaryRule::fixed : BoundaryRule::word_aware;
  options.growing_depth = rng.below(2) == 0;
  return options;
}

/// Pieces of boundary bits: lengths from 0 (an empty document) up.
inline std::vector<std::vector<std::uint8_t>> random_pieces(core::Rng& rng, int max_pieces,
                                                            int max_len) {
  std::vector<std::vector<std::uint8_t>> pieces(1 + rng.below(max_pieces));
  const std::uint32_t rarity = 1 + rng.below(8);
  for (auto& piece : pieces) {
    piece.resize(rng.below(max_len + 1));
    for (auto& bit : piece) bit = rng.below(rarity) == 0;
  }
  return pieces;
}

inline Layout build(const LayoutOptions& options,
                    const std::vector<std::vector<std::uint8_t>>& pieces) {
  Layout layout(options);
  for (const auto& piece : pieces) {
    layout.append(piece);
    layout.end_piece();
  }
  return layout;
}

}  // namespace gsa::attention
