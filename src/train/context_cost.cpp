#include "train/context_cost.h"

#include <algorithm>

namespace gsa::train {

std::vector<std::uint8_t> boundary_bits(std::span<const std::int32_t> tokens,
                                        const std::vector<bool>& word_starts) {
  std::vector<std::uint8_t> bits;
  bits.reserve(tokens.size());
  for (const std::int32_t id : tokens) bits.push_back(word_starts[id] ? 1 : 0);
  return bits;
}

std::int64_t piece_cost(const attention::LayoutOptions& options, PiecePlace place,
                        std::span<const std::uint8_t> bits) {
  attention::LayoutOptions piece_options = options;
  if (place == PiecePlace::later) piece_options.num_sinks = 0;
  attention::Layout layout(std::move(piece_options));
  layout.append(bits);
  layout.end_piece();
  std::int64_t cost = layout.num_raw();
  for (int level = 0; level < layout.num_levels(); ++level) cost += layout.num_nodes(level);
  return cost;
}

std::int64_t longest_prefix(const attention::LayoutOptions& options, PiecePlace place,
                            std::span<const std::uint8_t> bits, std::int64_t max_cost) {
  std::int64_t fits = 0;
  std::int64_t too_long = std::min(std::ssize(bits), std::max<std::int64_t>(max_cost, 0)) + 1;
  while (too_long - fits > 1) {
    const std::int64_t len = fits + (too_long - fits) / 2;
    (piece_cost(options, place, bits.first(len)) <= max_cost ? fits : too_long) = len;
  }
  return fits;
}

}  // namespace gsa::train
