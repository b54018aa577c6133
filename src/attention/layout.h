#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace gsa::attention {

/// Level of raw tokens; gists have levels 0, 1, ... (method: lev(t)).
inline constexpr int kRawLevel = -1;
/// Most levels of gists.
inline constexpr int kMaxLevels = 8;

/// Tokens per gist for each level, `{16}` or `{4, 4}`; empty for a layout without gists.
struct ChunkSizes {
  std::vector<std::int32_t> sizes;

  /// Reads `16` or `4-4`. Input error unless 1 to 8 numbers of 2..4096 stand between single dashes.
  static ChunkSizes parse(std::string_view text);
  std::string to_string() const;

  int num_levels() const { return static_cast<int>(sizes.size()); }
  /// Product of the sizes: raw tokens per top-level gist.
  std::int64_t nominal_ratio() const;

  bool operator==(const ChunkSizes&) const = default;
};

/// Where a chunk may end (method §1.3).
enum class BoundaryRule { word_aware, fixed };

struct LayoutOptions {
  ChunkSizes chunk_sizes;
  std::int32_t num_sinks = 3;         ///< S: first raw tokens, visible to everyone
  std::int32_t num_local_chunks = 1;  ///< N: chunks before the own one that stay raw
  BoundaryRule boundary = BoundaryRule::word_aware;
  /// A piece stops at the first level that has a single node (method §1.5), for trees deeper than
  /// their text.
  bool growing_depth = false;

  bool operator==(const LayoutOptions&) const = default;
};

/// Half-open interval of indices in one arena.
struct Range {
  std::int64_t begin = 0;
  std::int64_t end = 0;

  std::int64_t size() const { return end > begin ? end - begin : 0; }
  bool operator==(const Range&) const = default;
};

/// The chunk tree of one sequence's context (method §1): which raw tokens each gist folds, which
/// gists each gist of gists folds, piece by piece. It is a pure function of the boundary bits and
/// piece ends, and appending token by token gives the same layout as appending at once: only final
/// cuts become nodes.
///
/// Raw tokens that were appended but lie behind the last final cut belong to the open chunk. Raw
/// indices at or above `num_raw()` are valid in every query about raw tokens: they are the suffix,
/// which counts as one open chunk.
class Layout {
 public:
  explicit Layout(LayoutOptions options);

  const LayoutOptions& options() const { return options_; }
  int num_levels() const { return options_.chunk_sizes.num_levels(); }

  /// Adds raw tokens to the open piece; one byte per token, non-zero if its text starts a word.
  void append(std::span<const std::uint8_t> word_starts);

  /// Closes the open piece (a document): its partial chunk and sections get their gists. Without
  /// tokens since the last call it does nothing.
  void end_piece();

  /// Context tokens appended so far.
  std::int64_t num_raw() const { return num_raw_; }
  /// Raw tokens that are folded: the end of the last chunk.
  std::int64_t num_folded() const;
  std::int64_t num_nodes(int level) const;
  /// First raw token of every piece.
  const std::vector<std::int64_t>& piece_begins() const { return piece_begins_; }

  /// Children of a node: raw tokens for level 0, nodes of `level - 1` above. The sinks belong to
  /// chunk 0.
  Range children(int level, std::int64_t node) const;
  /// Raw tokens under a node.
  Range raw_range(int level, std::int64_t node) const;
  /// RoPE position of a gist: that of the last raw token before it (method §1.8).
  std::int64_t position(int level, std::int64_t node) const;
  /// Parent at `level + 1`, or -1 when the node is a root (top level, piece that ended lower, open
  /// section).
  std::int64_t parent(int level, std::int64_t node) const;
  /// Nodes without a parent, ascending: where a search from the top must also look. All nodes at
  /// the top level.
  const std::vector<std::int64_t>& roots(int level) const;
  /// First and one-past-last child of every node of a level, as `children` gives them one by one.
  std::span<const std::int64_t> child_begins(int level) const;
  std::span<const std::int64_t> child_ends(int level) const;

  /// u_level of a raw token: gists of that level before raw index `raw_idx` (method §2).
  std::int64_t nodes_before_raw(int level, std::int64_t raw_idx) const;
  /// u_level of a gist: gists of that level strictly before node `node` of `node_level` in the
  /// stream.
  std::int64_t nodes_before_node(int level, int node_level, std::int64_t node) const;
  /// First child index of section `section` of `level` in the arena below (raw for level 0): where
  /// node `section - 1` ends. Clamped at 0 for negative sections (method §2, b_l).
  std::int64_t section_begin(int level, std::int64_t section) const;

  /// Longest chunk so far in raw tokens, sinks included.
  std::int64_t max_chunk_len() const { return max_chunk_len_; }

 private:
  struct Level {
    std::vector<std::int64_t> child_begin, child_end;  // in the arena below
    std::vector<std::int64_t> raw_end;
    std::vector<std::int64_t> parent;  // -1 while none
    std::vector<std::int64_t> roots;
    std::int64_t piece_begin = 0;  // first node of the open piece
    std::int64_t open_begin = 0;   // first node of the open piece that has no parent yet

    std::int64_t num_nodes() const { return static_cast<std::int64_t>(raw_end.size()); }
  };

  enum class TailIs { growing, complete };

  void cut_chunks(TailIs tail);
  std::int64_t cut_after(std::int64_t nominal, TailIs tail) const;
  void add_chunk(std::int64_t len);
  void add_node(int level, Range children, std::int64_t raw_end);
  void fold_open_nodes(int level);

  LayoutOptions options_;
  std::int64_t num_raw_ = 0;
  std::vector<Level> levels_;
  std::vector<std::int64_t> piece_begins_;
  bool piece_is_open_ = false;
  std::vector<std::uint8_t> tail_;  // boundary bits of the open chunk
  std::int64_t max_chunk_len_ = 0;
};

}  // namespace gsa::attention
