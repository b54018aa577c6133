#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "text/added_tokens.h"
#include "text/bpe.h"
#include "text/normalizer.h"
#include "text/pre_tokenizer.h"

namespace gsa::text {

/// How a file writes the tokens of a vocabulary, and what a text is before anything is merged.
enum class Spelling {
  byte_alphabet,  ///< GPT-2's: a visible character for every byte of a text
  metaspace,      ///< SentencePiece's: characters, "▁" for a space, `<0x0A>` for a byte of others
};

/// Whether the `Metaspace` step of tokenizer.json puts a space in front of a text.
enum class SpacePrefix {
  none,
  if_missing,           ///< of every text between added tokens
  if_missing_at_start,  ///< of the whole text only
};

/// What a file says about a vocabulary, whatever its format. Views stay valid while it is built.
struct VocabularySpec {
  std::string what;  ///< where it comes from; begins every error message

  Spelling spelling = Spelling::byte_alphabet;
  /// Text of every id: spelled as `spelling` says, or plain where an added token says so. Empty for
  /// ids that stand for nothing.
  std::vector<std::string_view> tokens;
  std::vector<AddedToken> added;
  std::vector<std::pair<std::string_view, std::string_view>> merges;
  std::span<const double> scores;  ///< by id, numbers; instead of merges

  Normalizer normalizer;
  std::optional<SpacePrefix> metaspace_step;  ///< before the text is split
  std::vector<SplitRule> split_rules;
  bool ignore_merges = false;
  bool hides_first_space = false;      ///< of decoded text
  std::optional<std::int32_t> unk_id;  ///< for bytes that have no token

  std::vector<std::int32_t> prefix_ids;  ///< around a text with `add_special`
  std::vector<std::int32_t> suffix_ids;
  std::optional<std::int32_t> bos_id;
  std::optional<std::int32_t> eos_id;
  std::vector<std::int32_t> end_of_turn_ids;  ///< those that the file names, beside eos
  std::string chat_template;
};

/// Everything a Tokenizer knows; immutable once built.
struct TokenizerData {
  /// Input error for anything in the spec that does not fit together.
  explicit TokenizerData(const VocabularySpec& spec);
  TokenizerData(const TokenizerData&) = delete;
  TokenizerData& operator=(const TokenizerData&) = delete;

  std::optional<std::int32_t> find(std::string_view bytes) const;
  bool contains(std::int32_t id) const {
    return id >= 0 && static_cast<std::size_t>(id) < token_bytes.size();
  }

  std::vector<std::string> token_bytes;  // by id; the views of `ids` point here
  std::vector<bool> special;             // by id
  std::unordered_map<std::string_view, std::int32_t> ids;
  Bpe bpe;
  PreTokenizer pre_tokenizer;
  AddedTokens raw_added;         // looked for in the text as it is
  AddedTokens normalized_added;  // looked for in the normalised text between those
  Normalizer normalizer;
  std::optional<SpacePrefix> metaspace_step;
  bool ignore_merges;
  bool hides_first_space;
  std::vector<std::int32_t> prefix_ids;
  std::vector<std::int32_t> suffix_ids;
  std::optional<std::int32_t> bos_id;
  std::optional<std::int32_t> eos_id;
  std::vector<std::int32_t> end_of_turn_ids;
  std::string chat_template;
  std::vector<bool> word_starts;  // by id
  std::string digest;

 private:
  void read_tokens(const VocabularySpec& spec);
  void read_added(const VocabularySpec& spec);
  void index_tokens(const VocabularySpec& spec);
  std::array<std::int32_t, 256> find_byte_ids(const VocabularySpec& spec) const;
  std::vector<Bpe::Merge> resolve_merges(const VocabularySpec& spec) const;
  void read_byte_pairs(const VocabularySpec& spec);
  void read_character_pairs(const VocabularySpec& spec);
  void find_end_of_turn_ids(const VocabularySpec& spec);
};

}  // namespace gsa::text
