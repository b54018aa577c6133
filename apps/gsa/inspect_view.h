#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "attention/layout.h"
#include "engine/session.h"

namespace gsa::apps {

/// What `gsa inspect` shows, however it is drawn.
struct InspectView {
  struct Piece {
    std::string name;  ///< a document's path, or what the chat puts before it
    std::int64_t begin = 0;
  };
  struct Chunk {
    attention::Range tokens;
    std::string text;
    std::vector<int> num_heads;  ///< per entry of `layers`: KV heads that unfolded it
  };

  std::string model;
  std::string policy;
  std::string question;  ///< empty: layout only
  std::int64_t num_tokens = 0;
  std::int64_t num_kv_heads = 0;
  std::int64_t num_model_layers = 0;
  attention::Layout layout{attention::LayoutOptions{}};
  std::vector<Piece> pieces;
  std::vector<Chunk> chunks;
  std::vector<engine::LayerSelection> layers;  ///< those that select; empty without a question

  /// Piece that begins with this token; nullptr for none.
  const Piece* piece_at(std::int64_t token) const;
  /// Layers in which some KV head unfolded the chunk.
  std::size_t num_layers_unfolding(const Chunk& chunk) const;
  bool has_sinks(const Chunk& chunk) const;
  /// Among the last chunks, whose raw tokens a question always sees.
  bool is_local(std::int64_t chunk_idx) const;
};

/// `g`, `G`, and from the third level on `G2`, `G3` ...
std::string level_name(int level);

/// Lines of at most `width` columns. With a question and without `is_complete`, runs of chunks that
/// no layer unfolded are left out.
std::string draw_text(const InspectView& view, std::size_t width, bool is_complete);

std::string draw_json(const InspectView& view);

/// A page that needs nothing else: no script, no other file.
std::string draw_html(const InspectView& view);

}  // namespace gsa::apps
