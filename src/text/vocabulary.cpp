#include "text/vocabulary.h"

#include <algorithm>
#include <array>

#include "core/error.h"
#include "core/utf8.h"
#include "text/byte_alphabet.h"
#include "text/sha256.h"
#include "text/unicode.h"

namespace gsa::text {
namespace {

using core::input_error;
using core::printable;

// Control tokens that end a turn or a text, whatever the file calls its end token.
constexpr std::array<std::string_view, 5> end_of_turn_names = {
    "<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|end_of_text|>", "<|endoftext|>"};

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
      nfc(spec.nfc),
      ignore_merges(spec.ignore_merges),
      prefix_ids(spec.prefix_ids),
      suffix_ids(spec.suffix_ids),
      bos_id(spec.bos_id),
      eos_id(spec.eos_id),
      chat_template(spec.chat_template) {
  read_tokens(spec);
  read_merges(spec);
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
    if (!append_spelled_bytes(spec.tokens[id], token_bytes[id])) token_bytes[id] = spec.tokens[id];
  }
  std::vector<AddedToken> raw;
  std::vector<AddedToken> normalized;
  for (auto token : spec.added) {
    if (!contains(token.id)) {
      input_error("{}: added token '{}' has the id {}, the vocabulary ends at {}", spec.what,
                  printable(token.content), token.id, token_bytes.size());
    }
    token_bytes[token.id] = token.content;
    special[token.id] = token.special;
    if (token.normalized && nfc) token.content = to_nfc(token.content);
    (token.normalized ? normalized : raw).push_back(std::move(token));
  }
  raw_added = AddedTokens(std::move(raw));
  normalized_added = AddedTokens(std::move(normalized));

  ids.reserve(token_bytes.size());
  for (std::size_t id = 0; id < token_bytes.size(); ++id) {
    if (!token_bytes[id].empty()) ids.emplace(token_bytes[id], static_cast<std::int32_t>(id));
  }
}

void TokenizerData::read_merges(const VocabularySpec& spec) {
  std::array<std::int32_t, 256> byte_ids;
  for (int byte = 0; byte < 256; ++byte) {
    const char c = static_cast<char>(byte);
    byte_ids[byte] = find({&c, 1}).value_or(spec.unk_id.value_or(-1));
  }

  std::vector<Bpe::Merge> merges;
  merges.reserve(spec.merges.size());
  std::string bytes;
  for (const auto& [left, right] : spec.merges) {
    bytes.clear();
    std::optional<std::int32_t> left_id;
    std::optional<std::int32_t> right_id;
    if (append_spelled_bytes(left, bytes)) left_id = find(bytes);
    const auto left_len = bytes.size();
    if (append_spelled_bytes(right, bytes)) {
      right_id = find(std::string_view(bytes).substr(left_len));
    }
    const auto result = find(bytes);
    if (!left_id || !right_id || !result) {
      input_error("{}: merge {} ('{}' + '{}') names a token that is not in the vocabulary",
                  spec.what, merges.size(), printable(left), printable(right));
    }
    merges.push_back({*left_id, *right_id, *result});
  }
  bpe = Bpe(byte_ids, merges);
  digest = digest_of(token_bytes, merges);
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
