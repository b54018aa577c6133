#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "inspect_view.h"
#include "terminal.h"

namespace gsa::apps {
namespace {

constexpr std::array shades = {"·", "░", "▒", "▓", "█"};

/// One character per selecting layer, darker for more KV heads.
std::string layer_strip(const InspectView& view, const InspectView::Chunk& chunk) {
  std::string strip;
  for (const int num_heads : chunk.num_heads) {
    const auto shade = num_heads == 0 ? 0 : std::max<std::int64_t>(1, 4 * num_heads / view.num_kv_heads);
    strip += shades[static_cast<std::size_t>(shade)];
  }
  return strip;
}

/// The beginning of a text that fits, line breaks shown as spaces.
std::string snippet(std::string_view text, std::size_t width) {
  std::string line = without_control_characters(text);
  std::replace(line.begin(), line.end(), '\n', ' ');
  std::size_t end = 0;
  while (end < line.size()) {
    std::size_t next = end + 1;
    while (next < line.size() && (line[next] & '\xC0') == '\x80') ++next;
    if (display_width(std::string_view(line).substr(0, next)) > width) break;
    end = next;
  }
  return line.substr(0, end);
}

std::string header(const InspectView& view) {
  const attention::LayoutOptions& options = view.layout.options();
  std::string text = fmt::format("{}, policy {}: {} tokens", view.model, view.policy,
                                 format_count(view.num_tokens));
  for (int level = 0; level < view.layout.num_levels(); ++level)
    text += fmt::format(", {} {}", format_count(view.layout.num_nodes(level)), level_name(level));
  text += fmt::format(". Sinks: {} tokens, always raw before a question: {} chunk{}.\n",
                      options.num_sinks, options.num_local_chunks,
                      options.num_local_chunks == 1 ? "" : "s");
  if (view.chunks.empty()) return text + "This policy does not fold: there are no chunks.\n";
  if (!view.layers.empty()) {
    text += fmt::format(
        "Question: {}\nOne mark per layer {}..{}: how many of the {} KV heads unfolded the chunk.\n",
        without_control_characters(view.question), view.layers.front().layer,
        view.layers.back().layer, view.num_kv_heads);
  } else if (!view.question.empty()) {
    text += "This policy does not select: the question unfolds nothing.\n";
  }
  return text + "\n";
}

/// Nodes above level 0 that end with this chunk.
std::string closing_nodes(const InspectView& view, std::int64_t chunk_idx) {
  std::string text;
  std::int64_t node = chunk_idx;
  for (int level = 1; level < view.layout.num_levels(); ++level) {
    const std::int64_t parent = view.layout.parent(level - 1, node);
    if (parent < 0 || view.layout.children(level, parent).end != node + 1) break;
    const attention::Range children = view.layout.children(level, parent);
    text += fmt::format("{:>{}}{} {}: {} {}..{}\n", "└ ", 5 + 2 * level, level_name(level), parent,
                        level_name(level - 1), children.begin, children.end - 1);
    node = parent;
  }
  return text;
}

}  // namespace

std::string draw_text(const InspectView& view, std::size_t width, bool is_complete) {
  std::string out = header(view);
  const bool shows_all = is_complete || view.layers.empty();
  std::int64_t num_skipped = 0;
  const auto flush_skipped = [&] {
    if (num_skipped > 0) out += fmt::format("      ⋮ {} not unfolded\n", format_count(num_skipped));
    num_skipped = 0;
  };
  for (std::size_t i = 0; i < view.chunks.size(); ++i) {
    const InspectView::Chunk& chunk = view.chunks[i];
    const auto idx = static_cast<std::int64_t>(i);
    if (const InspectView::Piece* piece = view.piece_at(chunk.tokens.begin)) {
      flush_skipped();
      out += fmt::format("── {}\n", without_control_characters(piece->name));
    }
    const bool is_always_raw = view.is_local(idx) || view.has_sinks(chunk);
    if (!shows_all && !is_always_raw && view.num_layers_unfolding(chunk) == 0) {
      ++num_skipped;
      continue;
    }
    flush_skipped();
    const char mark = view.has_sinks(chunk) ? 'S' : view.is_local(idx) ? 'L' : ' ';
    std::string line = fmt::format("{:>6} {:>7}..{:<7}{} {}", i, chunk.tokens.begin,
                                   chunk.tokens.end, mark, layer_strip(view, chunk));
    const std::size_t used = display_width(line) + 2;
    line.append(2, ' ').append(snippet(chunk.text, width > used + 16 ? width - used : 16));
    out += line + '\n';
    if (shows_all) out += closing_nodes(view, idx);
  }
  flush_skipped();
  return out;
}

}  // namespace gsa::apps
