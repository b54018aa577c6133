#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string_view>
#include <vector>

#include "text/tokenizer.h"

namespace gsa::train {

/// How many of an item's n-grams an evaluation set has too.
struct Overlap {
  std::int64_t num_grams = 0;
  std::int64_t num_shared = 0;

  double share() const {
    return num_grams == 0 ? 0 : static_cast<double>(num_shared) / static_cast<double>(num_grams);
  }
  Overlap& operator+=(const Overlap& other) {
    num_grams += other.num_grams;
    num_shared += other.num_shared;
    return *this;
  }
};

/// What a model will be evaluated on, as hashes: every run of 13 tokens and every whole text of the
/// string fields, at any depth, of JSON Lines files; plain text files count as one string per
/// block.
class EvaluationSet {
 public:
  static constexpr std::size_t gram_len = 13;

  EvaluationSet() = default;
  /// Input error for a file that cannot be read as text.
  EvaluationSet(std::span<const std::filesystem::path> files, const text::Tokenizer& tokenizer);

  bool empty() const { return num_hashes_ == 0; }
  /// Distinct runs of tokens and texts.
  std::int64_t num_grams() const { return static_cast<std::int64_t>(num_hashes_); }
  /// Overlap of a training item with all of the set.
  Overlap overlap(std::span<const std::int32_t> tokens) const;
  /// Whether a string of the set is this text, apart from white space at both ends.
  bool has_text(std::string_view text) const;

 private:
  void add_text(std::string_view text, const text::Tokenizer& tokenizer);
  void insert(std::uint64_t hash);
  bool contains(std::uint64_t hash) const;
  void grow();

  std::vector<std::uint64_t> slots_;  // open addressing, 0: free; a power of two
  std::size_t num_hashes_ = 0;
};

}  // namespace gsa::train
