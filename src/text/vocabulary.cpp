#include "text/vocabulary.h"

#include <algorithm>
#include <array>

#include "core/error.h"
#include "core/utf8.h"
#include "text/byte_alphabet.h"
#include "text/metaspace.h"
#include "text/score_merges.h"
#include "text/sha256.h"
#include "text/unicode.h"

namespace gsa::text {
namespace {

using core::input_error;
using core::printable;

// Control tokens that end a turn or a text, whatever the file calls its end token.
constexpr std::array<std::string_view, 6> end_of_turn_names = {
    "<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|end|>", "<|end_of_text|>", "<|endoftext|>"};

bool starts_word(std::string_view bytes) {
  if (bytes.empty()) return true;
  // The character may be cut off; the replacement character then stands for it and starts no word.
  const auto text = core::decode_utf8(bytes.substr(0, 4)).text;
  const auto c = first_code_point(text);
  return is_space(c) ||
         std::u32string_view(U".,;:!?-—()[]{}\"'").find(c) != std::u32string_view::npos;
}

std::string digest_of(const std::vector<std::string>& tokens, std::span<const Bpe::Merge> merges) {
  Sha256 sha;
  for (std::size_t id = 0; id < tokens.size(); ++id) {
    if (tokens[id].empty()) continue;  // files differ in how many rows they pad with
    sha.update_u32(static_cast<std::uint32_t>(id));
    sha.update_u32(static_cast<std::uint32_t>(tokens[id].size()));
    sha.update(tokens[id]);
  }
  for (const auto& merge : merges) {
    sha.update_u32(static_cast<std::uint32_t>(merge.left));
    sha.update_u32(static_cast<std::uint32_t>(merge.right));
  }
  return sha.finish();
}

}  // namespace

TokenizerData::TokenizerData(const VocabularySpec& spec)
    : pre_tokenizer(spec.split_rules, spec.what),
      normalizer(spec.normalizer),
      metaspace_step(spec.metaspace_step),
      ignore_merges(spec.ignore_merges),
      hides_first_space(spec.hides_first_space),
      prefix_ids(spec.prefix_ids),
      suffix_ids(spec.suffix_ids),
      bos_id(spec.bos_id),
      eos_id(spec.eos_id),
      chat_template(spec.chat_template) {
  read_tokens(spec);
  if (spec.spelling == Spelling::byte_alphabet) {
    read_byte_pairs(spec);
  } else {
    read_character_pairs(spec);
  }
  for (const auto& list : {prefix_ids, suffix_ids, spec.end_of_turn_ids}) {
    for (const auto id : list) {
      if (!contains(id)) input_error("{}: token id {} is not in the vocabulary", spec.what, id);
    }
  }
  for (const auto& id : {bos_id, eos_id}) {
    if (id && !contains(*id)) {
      input_error("{}: begin or end token {} is not in the vocabulary", spec.what, *id);
    }
  }
  find_end_of_turn_ids(spec);
  word_starts.resize(token_bytes.size());
  for (std::size_t id = 0; id < token_bytes.size(); ++id) {
    word_starts[id] = special[id] || starts_word(token_bytes[id]);
  }
}

void TokenizerData::read_tokens(const VocabularySpec& spec) {
  if (spec.tokens.empty()) input_error("{}: the vocabulary is empty", spec.what);
  token_bytes.resize(spec.tokens.size());
  special.resize(spec.tokens.size());
  for (std::size_t id = 0; id < spec.tokens.size(); ++id) {
    const auto spelled = spec.tokens[id];
    if (spec.spelling == Spelling::byte_alphabet) {
      if (!append_spelled_bytes(spelled, token_bytes[id])) token_bytes[id] = spelled;
    } else if (const auto byte = byte_of_spelling(spelled)) {
      token_bytes[id] = *byte;
    } else {
      token_bytes[id] = metaspace_to_space(spelled);
    }
  }
  read_added(spec);
  index_tokens(spec);
}

void TokenizerData::read_added(const VocabularySpec& spec) {
  std::vector<AddedToken> raw;
  std::vector<AddedToken> normalized;
  for (auto token : spec.added) {
    if (!contains(token.id)) {
      input_error("{}: added token '{}' has the id {}, the vocabulary ends at {}", spec.what,
                  printable(token.content), token.id, token_bytes.size());
    }
    token_bytes[token.id] = token.content;
    special[token.id] = token.special;
    if (token.normalized && !token.content.empty()) {
      token.content = normalizer.normalize(token.content).value_or(token.content);
    }
    (token.normalized ? normalized : raw).push_back(std::move(token));
  }
  raw_added = AddedTokens(std::move(raw));
  normalized_added = AddedTokens(std::move(normalized));
}

void TokenizerData::index_tokens(const VocabularySpec& spec) {
  ids.reserve(token_bytes.size());
  const auto add = [this](std::size_t id) {
    if (!token_bytes[id].empty()) ids.emplace(token_bytes[id], static_cast<std::int32_t>(id));
  };
  // A character's own token comes before that of its byte.
  const auto is_byte = [&](std::size_t id) {
    return spec.spelling == Spelling::metaspace && byte_of_spelling(spec.tokens[id]);
  };
  for (std::size_t id = 0; id < token_bytes.size(); ++id) {
    if (!is_byte(id)) add(id);
  }
  for (std::size_t id = 0; id < token_bytes.size(); ++id) add(id);
}

/// Token of every byte, -1 for none.
std::array<std::int32_t, 256> TokenizerData::find_byte_ids(const VocabularySpec& spec) const {
  std::array<std::int32_t, 256> byte_ids;
  if (spec.spelling == Spelling::byte_alphabet) {
    for (int byte = 0; byte < 256; ++byte) {
      const char c = static_cast<char>(byte);
      byte_ids[byte] = find({&c, 1}).value_or(spec.unk_id.value_or(-1));
    }
    return byte_ids;
  }
  byte_ids.fill(-1);
  for (std::size_t id = 0; id < spec.tokens.size(); ++id) {
    const auto byte = byte_of_spelling(spec.tokens[id]);
    if (!byte || token_bytes[id].size() != 1) continue;  // an added token only looks like one
    byte_ids[static_cast<unsigned char>(*byte)] = static_cast<std::int32_t>(id);
  }
  const auto missing = std::ranges::find(byte_ids, -1);
  if (missing != byte_ids.end()) {
    input_error(
        "{}: the token <0x{:02X}> is missing: a SentencePiece vocabulary needs all of "
        "<0x00> to <0xFF> for characters that it lacks",
        spec.what, missing - byte_ids.begin());
  }
  return byte_ids;
}

std::vector<Bpe::Merge> TokenizerData::resolve_merges(const VocabularySpec& spec) const {
  const auto append = [&](std::string_view spelled, std::string& bytes) {
    if (spec.spelling == Spelling::byte_alphabet) return append_spelled_bytes(spelled, bytes);
    bytes += metaspace_to_space(spelled);
    return true;
  };
  std::vector<Bpe::Merge> merges;
  merges.reserve(spec.merges.size());
  std::string bytes;
  for (const auto& [left, right] : spec.merges) {
    bytes.clear();
    std::optional<std::int32_t> left_id;
    std::optional<std::int32_t> right_id;
    if (append(left, bytes)) left_id = find(bytes);
    const auto left_len = bytes.size();
    if (append(right, bytes)) right_id = find(std::string_view(bytes).substr(left_len));
    const auto result = find(bytes);
    if (!left_id || !right_id || !result) {
      input_error("{}: merge {} ('{}' + '{}') names a token that is not in the vocabulary",
                  spec.what, merges.size(), printable(left), printable(right));
    }
    merges.push_back({*left_id, *right_id, *result});
  }
  return merges;
}

void TokenizerData::read_byte_pairs(const VocabularySpec& spec) {
  const auto byte_ids = find_byte_ids(spec);
  const auto merges = resolve_merges(spec);
  bpe = Bpe(byte_ids, merges);
  digest = digest_of(token_bytes, merges);
}

void TokenizerData::read_character_pairs(const VocabularySpec& spec) {
  const auto byte_ids = find_byte_ids(spec);
  std::unordered_map<char32_t, std::int32_t> character_ids;
  for (const auto& [text, id] : ids) {
    const auto is_valid = [](std::string_view bytes) {
      return core::decode_utf8(bytes).num_replaced == 0;
    };
    if (!special[id] && text.size() <= 4 && first_char_len(text) == text.size() && is_valid(text)) {
      character_ids.emplace(first_code_point(text), id);
    }
  }
  RankedMerges ranked;
  if (spec.scores.empty()) {
    ranked.merges = resolve_merges(spec);
    // Ordinary text must not become a control token.
    std::erase_if(ranked.merges, [this](const auto& merge) { return special[merge.result]; });
  } else {
    ranked = merges_by_score(ids, special, spec.scores);
  }
  const auto crosses_words = [this](const Bpe::Merge& merge) {
    return token_bytes[merge.left].back() != ' ' && token_bytes[merge.right].front() == ' ';
  };
  if (spec.split_rules.empty() && !ignore_merges &&
      std::ranges::none_of(ranked.merges, crosses_words)) {
    // Nothing is merged across the beginning of a word: words by themselves give the same tokens
    // in less time.
    pre_tokenizer = PreTokenizer({{" *+[^ ]++"}}, spec.what);
  }
  bpe = Bpe(byte_ids, ranked.merges, ranked.ranks, std::move(character_ids));
  // The two file formats hold different lists of merges that come from the same tokens.
  digest = digest_of(token_bytes, {});
}

void TokenizerData::find_end_of_turn_ids(const VocabularySpec& spec) {
  end_of_turn_ids = spec.end_of_turn_ids;
  if (eos_id) end_of_turn_ids.push_back(*eos_id);
  for (const auto name : end_of_turn_names) {
    const auto id = find(name);
    if (id && special[*id]) end_of_turn_ids.push_back(*id);
  }
  std::ranges::sort(end_of_turn_ids);
  const auto repeated = std::ranges::unique(end_of_turn_ids);
  end_of_turn_ids.erase(repeated.begin(), repeated.end());
}

std::optional<std::int32_t> TokenizerData::find(std::string_view bytes) const {
  const auto entry = ids.find(bytes);
  return entry == ids.end() ? std::nullopt : std::optional(entry->second);
}

}  // namespace gsa::text
