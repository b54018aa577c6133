#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "attention/layout.h"

namespace gsa::train {

/// Boundary bits of tokens, as `Layout::append` takes them; `word_starts` has a bit per token id.
std::vector<std::uint8_t> boundary_bits(std::span<const std::int32_t> tokens,
                                        const std::vector<bool>& word_starts);

/// Which pieces a cost is asked for: only the first one of a context holds the sinks.
enum class PiecePlace { first, later };

/// Raw tokens and gists of one closed piece. The cost of a context is the sum over its pieces.
std::int64_t piece_cost(const attention::LayoutOptions& layout, PiecePlace place,
                        std::span<const std::uint8_t> bits);

/// The longest beginning of a piece that costs at most `max_cost`, in tokens. (One token more never
/// makes a piece cheaper.)
std::int64_t longest_prefix(const attention::LayoutOptions& layout, PiecePlace place,
                            std::span<const std::uint8_t> bits, std::int64_t max_cost);

}  // namespace gsa::train
