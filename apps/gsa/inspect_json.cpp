#include <nlohmann/json.hpp>

#include "inspect_view.h"

namespace gsa::apps {
namespace {

using Json = nlohmann::ordered_json;

Json node_json(const attention::Layout& layout, int level, std::int64_t node) {
  const attention::Range children = layout.children(level, node);
  const attention::Range raw = layout.raw_range(level, node);
  return {{"children", {children.begin, children.end}},
          {"tokens", {raw.begin, raw.end}},
          {"position", layout.position(level, node)},
          {"parent", layout.parent(level, node)}};
}

}  // namespace

std::string draw_json(const InspectView& view) {
  const attention::Layout& layout = view.layout;
  Json object = {{"model", view.model},
                 {"policy", view.policy},
                 {"context_tokens", view.num_tokens},
                 {"chunk_sizes", layout.options().chunk_sizes.sizes},
                 {"sinks", layout.options().num_sinks},
                 {"local_chunks", layout.options().num_local_chunks},
                 {"pieces", Json::array()},
                 {"chunks", Json::array()},
                 {"levels", Json::array()}};
  for (const InspectView::Piece& piece : view.pieces)
    object["pieces"].push_back({{"name", piece.name}, {"begin", piece.begin}});
  for (const InspectView::Chunk& chunk : view.chunks)
    object["chunks"].push_back({{"tokens", {chunk.tokens.begin, chunk.tokens.end}},
                                {"text", chunk.text}});
  for (int level = 0; level < layout.num_levels(); ++level) {
    Json nodes = Json::array();
    for (std::int64_t node = 0; node < layout.num_nodes(level); ++node)
      nodes.push_back(node_json(layout, level, node));
    object["levels"].push_back({{"name", level_name(level)}, {"nodes", std::move(nodes)}});
  }
  if (!view.question.empty()) {
    object["question"] = view.question;
    object["layers"] = Json::array();
    for (const engine::LayerSelection& layer : view.layers)
      object["layers"].push_back(
          {{"layer", layer.layer}, {"chunks", layer.chunks}, {"gists", layer.gists}});
  }
  return object.dump(2, ' ', false, Json::error_handler_t::replace);
}

}  // namespace gsa::apps
