#include <fmt/format.h>

#include <algorithm>

#include "core/display.h"
#include "inspect_view.h"
#include "terminal.h"

namespace gsa::apps {
namespace {

constexpr std::string_view style = R"(
:root { color-scheme: light dark; --page: #fff; --ink: #1c1c1c; --dim: #666; --line: #ccc; --hot: 215, 95, 0; }
@media (prefers-color-scheme: dark) {
  :root { --page: #16181c; --ink: #e4e4e4; --dim: #9a9a9a; --line: #444; --hot: 255, 150, 50; }
}
body { max-width: 60rem; margin: 2rem auto; padding: 0 1rem; background: var(--page); color: var(--ink);
       font: 16px/1.6 system-ui, sans-serif; }
h1 { font-size: 1.3rem; } h2 { font-size: 1.05rem; margin-top: 2rem; } .dim { color: var(--dim); }
.text { white-space: pre-wrap; overflow-wrap: anywhere; }
.chunk { background: rgba(var(--hot), calc(var(--share) * 0.75)); border-right: 1px solid var(--line); }
.always { text-decoration: underline dotted; }
.gist { font: 0.65rem/1 monospace; color: var(--dim); padding: 0 2px; vertical-align: super; }
.map { width: 100%; height: auto; border: 1px solid var(--line); }
.map rect { fill: rgb(var(--hot)); }
table { border-collapse: collapse; } td, th { text-align: right; padding: 0 1rem 0 0; font-weight: normal; }
)";

/// Text of a page: no markup, no control characters (HTML knows no reference for them).
std::string html(std::string_view text) {
  return core::escape_markup(without_control_characters(text));
}

std::string layers_unfolding(const InspectView& view, const InspectView::Chunk& chunk) {
  std::string layers;
  for (std::size_t i = 0; i < chunk.num_heads.size(); ++i)
    if (chunk.num_heads[i] > 0) layers += fmt::format(" {}", view.layers[i].layer);
  return layers.empty() ? "" : fmt::format(", unfolded in layers{}", layers);
}

/// Gists that stand behind a chunk, from the lowest level up.
std::string gist_marks(const InspectView& view, std::int64_t chunk_idx) {
  std::string marks = "<span class=gist>g</span>";
  std::int64_t node = chunk_idx;
  for (int level = 1; level < view.layout.num_levels(); ++level) {
    const std::int64_t parent = view.layout.parent(level - 1, node);
    if (parent < 0 || view.layout.children(level, parent).end != node + 1) break;
    marks += fmt::format("<span class=gist>{}</span>", level_name(level));
    node = parent;
  }
  return marks;
}

std::string chunk_html(const InspectView& view, std::size_t idx) {
  const InspectView::Chunk& chunk = view.chunks[idx];
  const auto chunk_idx = static_cast<std::int64_t>(idx);
  const double share = view.layers.empty() ? 0
                                           : static_cast<double>(view.num_layers_unfolding(chunk)) /
                                                 static_cast<double>(view.layers.size());
  const bool is_always_raw = view.has_sinks(chunk) || view.is_local(chunk_idx);
  return fmt::format(
      "<span class=\"chunk{}\" style=\"--share:{:.3f}\" title=\"chunk {}, tokens {} to "
      "{}{}\">{}</span>{}",
      is_always_raw ? " always" : "", share, idx, chunk.tokens.begin, chunk.tokens.end - 1,
      layers_unfolding(view, chunk), html(chunk.text), gist_marks(view, chunk_idx));
}

/// A dot for every layer (row) and chunk (column), fainter if few KV heads unfolded it.
std::string layer_map(const InspectView& view) {
  std::string out = fmt::format(
      "<svg class=map viewBox=\"0 0 {} {}\" preserveAspectRatio=none height=\"{}\" role=img "
      "aria-label=\"chunks unfolded by each layer\">\n",
      view.chunks.size(), view.layers.size(), 8 * view.layers.size());
  for (std::size_t i = 0; i < view.chunks.size(); ++i) {
    for (std::size_t layer = 0; layer < view.chunks[i].num_heads.size(); ++layer) {
      const int num_heads = view.chunks[i].num_heads[layer];
      if (num_heads == 0) continue;
      out += fmt::format(
          "<rect x={} y={} width=1 height=1 opacity={:.2f}><title>layer {}, chunk {}: {} of {} KV "
          "heads</title></rect>\n",
          i, layer, static_cast<double>(num_heads) / static_cast<double>(view.num_kv_heads),
          view.layers[layer].layer, i, num_heads, view.num_kv_heads);
    }
  }
  return out + "</svg>\n";
}

std::string facts(const InspectView& view) {
  std::string rows = fmt::format("<tr><td>tokens<td>{}\n", format_count(view.num_tokens));
  for (int level = 0; level < view.layout.num_levels(); ++level)
    rows += fmt::format("<tr><td>{}<td>{}\n", level_name(level),
                        format_count(view.layout.num_nodes(level)));
  return fmt::format("<table>\n{}</table>\n", rows);
}

}  // namespace

std::string draw_html(const InspectView& view) {
  std::string out = fmt::format(
      "<!doctype html>\n<html lang=en>\n<meta charset=utf-8>\n"
      "<meta name=viewport content=\"width=device-width, initial-scale=1\">\n"
      "<title>{0}</title>\n<style>{1}</style>\n<h1>{0}</h1>\n{2}",
      html(fmt::format("{}, {}", view.policy, view.model)), style, facts(view));
  if (view.chunks.empty())
    return out + "<p>This policy does not fold: there are no chunks.\n</html>\n";
  if (!view.layers.empty()) {
    out += fmt::format(
        "<h2>What the question unfolded</h2>\n<p>{}\n<p class=dim>Rows are layers {} to {}, "
        "columns "
        "are chunks in the order of the text.\n{}",
        html(view.question), view.layers.front().layer, view.layers.back().layer, layer_map(view));
  }
  out +=
      "<h2>The text in chunks</h2>\n<p class=dim>A chunk is darker the more layers unfolded it; "
      "dotted "
      "ones are always raw. Hover for its numbers. The small letters are its gists.\n";
  for (std::size_t i = 0; i < view.chunks.size(); ++i) {
    if (const auto* piece = view.piece_at(view.chunks[i].tokens.begin))
      out += fmt::format("{}<h2>{}</h2>\n<div class=text>", i == 0 ? "" : "</div>\n",
                         html(piece->name));
    out += chunk_html(view, i);
  }
  return out + "</div>\n</html>\n";
}

}  // namespace gsa::apps
