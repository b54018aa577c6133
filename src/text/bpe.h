#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace gsa::text {

/// Byte pair merging over token ids: the pair whose merge was learnt first is merged first, the
/// leftmost of equals before others. Pieces begin as bytes, or as characters where those have
/// tokens.
class Bpe {
 public:
  struct Merge {
    std::int32_t left;
    std::int32_t right;
    std::int32_t result;
  };

  Bpe() = default;
  /// `byte_ids`: token of every byte, -1 for bytes that the vocabulary lacks (they are dropped).
  /// `merges`: in the order of learning; of two entries for one pair the later counts.
  /// `ranks`: of every merge, lower is earlier; empty: all differ, in the order given.
  /// `character_ids`: token of characters that are one symbol from the beginning.
  Bpe(const std::array<std::int32_t, 256>& byte_ids, std::span<const Merge> merges,
      std::span<const std::uint32_t> ranks = {},
      std::unordered_map<char32_t, std::int32_t> character_ids = {});

  /// Appends the tokens of one piece: any bytes, or valid UTF-8 if characters have tokens. Time
  /// grows as n log n for a long one.
  void encode(std::string_view piece, std::vector<std::int32_t>& ids) const;

 private:
  struct Entry {
    std::uint64_t pair = no_pair;
    std::uint32_t rank = no_rank;
    std::int32_t result = -1;
  };
  static constexpr std::uint64_t no_pair = ~std::uint64_t{0};
  static constexpr std::uint32_t no_rank = ~std::uint32_t{0};

  std::size_t slot_of(std::uint64_t pair) const;
  Entry find_merge(std::int32_t left, std::int32_t right) const;
  void for_each_symbol(std::string_view piece, auto&& emit) const;
  void merge_short(std::span<std::int32_t> symbols, std::vector<std::int32_t>& ids) const;
  void merge_long(std::span<const std::int32_t> symbols, std::vector<std::int32_t>& ids) const;

  std::array<std::int32_t, 256> byte_ids_ = {};
  std::unordered_map<char32_t, std::int32_t> character_ids_;
  std::vector<Entry> table_;  // open addressing, a power of two, at most two thirds full
  int hash_shift_ = 0;
};

}  // namespace gsa::text
