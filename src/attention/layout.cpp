#include "attention/layout.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>

#include "core/error.h"

namespace gsa::attention {
namespace {

constexpr std::int32_t kMaxChunkSize = 4096;

std::int32_t parse_size(std::string_view part, std::string_view text) {
  std::int32_t size = 0;
  const auto [end, status] = std::from_chars(part.data(), part.data() + part.size(), size);
  if (status != std::errc() || end != part.data() + part.size() || size < 2 ||
      size > kMaxChunkSize) {
    core::input_error("chunk sizes '{}': '{}' is not a number from 2 to {}; write e.g. 16 or 4-4",
                      text, part, kMaxChunkSize);
  }
  return size;
}

}  // namespace

ChunkSizes ChunkSizes::parse(std::string_view text) {
  ChunkSizes result;
  for (std::size_t begin = 0; begin <= text.size();) {
    const std::size_t end = std::min(text.find('-', begin), text.size());
    result.sizes.push_back(parse_size(text.substr(begin, end - begin), text));
    begin = end + 1;
  }
  if (result.num_levels() > kMaxLevels) {
    core::input_error("chunk sizes '{}': more than {} levels", text, kMaxLevels);
  }
  return result;
}

std::string ChunkSizes::to_string() const { return fmt::format("{}", fmt::join(sizes, "-")); }

std::int64_t ChunkSizes::nominal_ratio() const {
  std::int64_t ratio = 1;
  for (const std::int32_t size : sizes) ratio *= size;
  return ratio;
}

Layout::Layout(LayoutOptions options)
    : options_(std::move(options)), levels_(options_.chunk_sizes.sizes.size()) {
  if (options_.num_sinks < 0 || options_.num_local_chunks < 0) {
    core::input_error("layout: sinks and local chunks must not be negative, got {} and {}",
                      options_.num_sinks, options_.num_local_chunks);
  }
  if (num_levels() > kMaxLevels) {
    core::input_error("layout: {} levels, at most {}", num_levels(), kMaxLevels);
  }
}

void Layout::append(std::span<const std::uint8_t> word_starts) {
  if (word_starts.empty()) return;
  if (!piece_is_open_) {
    piece_begins_.push_back(num_raw_);
    piece_is_open_ = true;
    for (Level& level : levels_) level.piece_begin = level.open_begin = level.num_nodes();
  }
  num_raw_ += static_cast<std::int64_t>(word_starts.size());
  if (levels_.empty()) return;
  tail_.insert(tail_.end(), word_starts.begin(), word_starts.end());
  cut_chunks(TailIs::growing);
}

void Layout::end_piece() {
  if (!piece_is_open_) return;
  piece_is_open_ = false;
  if (levels_.empty()) return;
  cut_chunks(TailIs::complete);
  if (!tail_.empty()) add_chunk(static_cast<std::int64_t>(tail_.size()));
  tail_.clear();
  for (int level = 0; level + 1 < num_levels(); ++level) {
    const Level& nodes = levels_[level];
    if (options_.growing_depth && nodes.num_nodes() - nodes.piece_begin <= 1) break;
    if (nodes.num_nodes() > nodes.open_begin) fold_open_nodes(level);
  }
}

// Turns every final cut of the tail into a chunk. The tail is consumed once at the end: erasing per
// chunk would make long appends quadratic.
void Layout::cut_chunks(TailIs tail) {
  const std::int32_t c0 = options_.chunk_sizes.sizes[0];
  std::int64_t begin = 0;
  while (true) {
    const std::int64_t sinks = num_folded() == 0 ? options_.num_sinks : 0;
    const std::int64_t end = cut_after(begin + sinks + c0, tail);
    if (end < 0) break;
    add_chunk(end - begin);
    begin = end;
  }
  tail_.erase(tail_.begin(), tail_.begin() + begin);
}

// Tail index where the chunk with nominal end `nominal` is cut, or -1 while the cut is not final
// (method §1.3).
std::int64_t Layout::cut_after(std::int64_t nominal, TailIs tail) const {
  const auto known = static_cast<std::int64_t>(tail_.size());
  if (options_.boundary == BoundaryRule::fixed) return nominal <= known ? nominal : -1;
  const std::int64_t last = nominal + options_.chunk_sizes.sizes[0] / 2;
  for (std::int64_t next = nominal; next <= last && next < known; ++next) {
    if (tail_[next]) return next;
  }
  const bool is_final = tail == TailIs::complete ? nominal < known : last < known;
  return is_final ? nominal : -1;
}

void Layout::add_chunk(std::int64_t len) {
  const std::int64_t begin = num_folded();
  add_node(0, {begin, begin + len}, begin + len);
  max_chunk_len_ = std::max(max_chunk_len_, len);
}

void Layout::add_node(int level, Range children, std::int64_t raw_end) {
  Level& nodes = levels_[level];
  nodes.roots.push_back(nodes.num_nodes());
  nodes.child_begin.push_back(children.begin);
  nodes.child_end.push_back(children.end);
  nodes.raw_end.push_back(raw_end);
  nodes.parent.push_back(-1);
  if (level + 1 < num_levels() &&
      nodes.num_nodes() - nodes.open_begin == options_.chunk_sizes.sizes[level + 1]) {
    fold_open_nodes(level);
  }
}

// Gives the open nodes of a level their parent. They are the last roots.
void Layout::fold_open_nodes(int level) {
  Level& nodes = levels_[level];
  const Range children{nodes.open_begin, nodes.num_nodes()};
  const std::int64_t parent = num_nodes(level + 1);
  std::fill(nodes.parent.begin() + children.begin, nodes.parent.end(), parent);
  nodes.roots.resize(nodes.roots.size() - children.size());
  nodes.open_begin = children.end;
  add_node(level + 1, children, nodes.raw_end.back());
}

std::int64_t Layout::num_folded() const {
  return levels_.empty() || levels_[0].raw_end.empty() ? 0 : levels_[0].raw_end.back();
}

std::int64_t Layout::num_nodes(int level) const { return levels_[level].num_nodes(); }

Range Layout::children(int level, std::int64_t node) const {
  return {levels_[level].child_begin[node], levels_[level].child_end[node]};
}

Range Layout::raw_range(int level, std::int64_t node) const {
  std::int64_t first = node;
  for (int below = level; below > 0; --below) first = levels_[below].child_begin[first];
  return {levels_[0].child_begin[first], levels_[level].raw_end[node]};
}

std::int64_t Layout::position(int level, std::int64_t node) const {
  return levels_[level].raw_end[node] - 1;
}

std::int64_t Layout::parent(int level, std::int64_t node) const {
  return levels_[level].parent[node];
}

const std::vector<std::int64_t>& Layout::roots(int level) const { return levels_[level].roots; }

std::span<const std::int64_t> Layout::child_begins(int level) const {
  return levels_[level].child_begin;
}

std::span<const std::int64_t> Layout::child_ends(int level) const {
  return levels_[level].child_end;
}

std::int64_t Layout::nodes_before_raw(int level, std::int64_t raw_idx) const {
  const auto& ends = levels_[level].raw_end;
  return std::upper_bound(ends.begin(), ends.end(), raw_idx) - ends.begin();
}

// Gists that end at the same raw token stand in order of their levels, so a lower level's counts as
// before.
std::int64_t Layout::nodes_before_node(int level, int node_level, std::int64_t node) const {
  if (level == node_level) return node;
  const auto& ends = levels_[level].raw_end;
  const std::int64_t end = levels_[node_level].raw_end[node];
  const auto bound = level < node_level ? std::upper_bound(ends.begin(), ends.end(), end)
                                        : std::lower_bound(ends.begin(), ends.end(), end);
  return bound - ends.begin();
}

std::int64_t Layout::section_begin(int level, std::int64_t section) const {
  return section <= 0 ? 0 : levels_[level].child_end[section - 1];
}

}  // namespace gsa::attention
