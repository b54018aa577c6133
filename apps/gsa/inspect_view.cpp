#include "inspect_view.h"

#include <fmt/format.h>

#include <algorithm>

namespace gsa::apps {

const InspectView::Piece* InspectView::piece_at(std::int64_t token) const {
  const auto found = std::find_if(pieces.begin(), pieces.end(),
                                  [&](const Piece& piece) { return piece.begin == token; });
  return found == pieces.end() ? nullptr : &*found;
}

std::size_t InspectView::num_layers_unfolding(const Chunk& chunk) const {
  return static_cast<std::size_t>(std::count_if(chunk.num_heads.begin(), chunk.num_heads.end(),
                                                [](int num_heads) { return num_heads > 0; }));
}

bool InspectView::has_sinks(const Chunk& chunk) const {
  return chunk.tokens.begin < layout.options().num_sinks;
}

bool InspectView::is_local(std::int64_t chunk_idx) const {
  return chunk_idx >=
         static_cast<std::int64_t>(chunks.size()) - layout.options().num_local_chunks;
}

std::string level_name(int level) {
  if (level < 2) return level == 0 ? "g" : "G";
  return fmt::format("G{}", level);
}

}  // namespace gsa::apps
