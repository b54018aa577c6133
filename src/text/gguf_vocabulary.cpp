#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <cmath>
#include <string_view>

#include "core/error.h"
#include "core/gguf.h"
#include "core/log.h"
#include "core/utf8.h"
#include "text/vocabulary_loaders.h"

namespace gsa::text {
namespace {

using core::input_error;
using core::printable;

/// `tokenizer.ggml.token_type`.
enum class GgufTokenType { normal = 1, unknown = 2, control = 3, user_defined = 4, unused = 5 };

std::optional<std::int32_t> find_id(const core::GgufFile& file, std::string_view key,
                                    std::size_t vocab_size, std::string_view what) {
  if (!file.has(key)) return std::nullopt;
  const auto id = file.get_uint(key);
  if (id >= vocab_size) {
    input_error("{}: {} is {}, the vocabulary has {} tokens", what, key, id, vocab_size);
  }
  return static_cast<std::int32_t>(id);
}

/// Converters fill the rows of a padded embedding with tokens of this name.
bool is_padding(std::string_view token, std::size_t id) {
  return token.starts_with("[PAD") && token == fmt::format("[PAD{}]", id);
}

/// Rows without a token are left empty. Unused tokens of SentencePiece are none of these: longer
/// ones are merged from them.
void read_tokens(const core::GgufFile& file, VocabularySpec& spec) {
  const auto& tokens = file.get_strings("tokenizer.ggml.tokens");
  spec.tokens.assign(tokens.begin(), tokens.end());
  if (!file.has("tokenizer.ggml.token_type")) return;
  const auto& types = file.get_ints("tokenizer.ggml.token_type");
  if (types.size() != tokens.size()) {
    input_error("{}: {} tokens but {} token types; the file is damaged", spec.what, tokens.size(),
                types.size());
  }
  for (std::size_t id = 0; id < tokens.size(); ++id) {
    const auto type = static_cast<GgufTokenType>(types[id]);
    const bool is_unused =
        type == GgufTokenType::unused && spec.spelling == Spelling::byte_alphabet;
    if (is_unused || is_padding(tokens[id], id)) {
      spec.tokens[id] = {};
    } else if (type == GgufTokenType::control || type == GgufTokenType::unknown ||
               type == GgufTokenType::user_defined) {
      spec.added.push_back({.id = static_cast<std::int32_t>(id),
                            .content = tokens[id],
                            .special = type != GgufTokenType::user_defined});
    }
  }
}

void read_merges(const core::GgufFile& file, VocabularySpec& spec) {
  for (const std::string_view merge : file.get_strings("tokenizer.ggml.merges")) {
    const auto space = merge.find(' ', 1);
    if (space == std::string_view::npos) {
      input_error("{}: merge '{}' is not two tokens; the file is damaged", spec.what,
                  printable(merge));
    }
    spec.merges.emplace_back(merge.substr(0, space), merge.substr(space + 1));
  }
}

/// The longest token that is taken apart, in bytes: several times what training makes.
constexpr std::size_t max_scored_len = 1024;

void read_scores(const core::GgufFile& file, VocabularySpec& spec) {
  spec.scores = file.get_floats("tokenizer.ggml.scores");
  if (spec.scores.size() != spec.tokens.size()) {
    input_error("{}: {} tokens but {} scores; the file is damaged", spec.what, spec.tokens.size(),
                spec.scores.size());
  }
  for (std::size_t id = 0; id < spec.scores.size(); ++id) {
    if (std::isnan(spec.scores[id])) {
      input_error("{}: the score of token {} is not a number; the file is damaged", spec.what, id);
    }
    if (spec.tokens[id].size() > max_scored_len) {
      input_error("{}: token {} has {} bytes, at most {} are read; the file is damaged", spec.what,
                  id, spec.tokens[id].size(), max_scored_len);
    }
  }
}

/// Phi-3's control tokens take the white space behind them, which no key of the file says.
void mark_phi3_tokens(const core::GgufFile& file, VocabularySpec& spec) {
  constexpr std::array<std::string_view, 3> exceptions = {"<unk>", "<s>", "<|endoftext|>"};
  auto name = file.get_string_or("general.name", "");
  std::ranges::transform(name, name.begin(), [](unsigned char c) { return std::tolower(c); });
  if (name.find("phi3") == name.npos && name.find("phi-3") == name.npos) return;
  for (auto& token : spec.added) {
    token.rstrip = std::ranges::find(exceptions, token.content) == exceptions.end();
  }
}

void read_special_ids(const core::GgufFile& file, bool add_bos_by_default, VocabularySpec& spec) {
  const auto id_of = [&](std::string_view key) {
    return find_id(file, key, spec.tokens.size(), spec.what);
  };
  spec.bos_id = id_of("tokenizer.ggml.bos_token_id");
  spec.eos_id = id_of("tokenizer.ggml.eos_token_id");
  for (const auto key : {"tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"}) {
    if (const auto id = id_of(key)) spec.end_of_turn_ids.push_back(*id);
  }
  if (spec.bos_id && file.get_bool_or("tokenizer.ggml.add_bos_token", add_bos_by_default)) {
    spec.prefix_ids.push_back(*spec.bos_id);
  }
  if (spec.eos_id && file.get_bool_or("tokenizer.ggml.add_eos_token", false)) {
    spec.suffix_ids.push_back(*spec.eos_id);
  }
}

void read_byte_level(const core::GgufFile& file, VocabularySpec& spec) {
  if (!file.has("tokenizer.ggml.pre")) {
    core::log_warning(
        fmt::format("{}: tokenizer.ggml.pre is missing, GPT-2's rule is used", spec.what));
  }
  const auto named =
      pre_tokenizer_by_name(file.get_string_or("tokenizer.ggml.pre", "default"), spec.what);
  spec.split_rules = named.rules;
  spec.normalizer.nfc = named.nfc;
  spec.ignore_merges = named.ignore_merges;
  read_tokens(file, spec);
  read_merges(file, spec);
  read_special_ids(file, named.add_bos, spec);
}

void read_sentencepiece(const core::GgufFile& file, VocabularySpec& spec) {
  spec.spelling = Spelling::metaspace;
  spec.normalizer.unify_spaces = true;
  spec.normalizer.prepend_space = file.get_bool_or("tokenizer.ggml.add_space_prefix", true);
  spec.hides_first_space = spec.normalizer.prepend_space;
  read_tokens(file, spec);
  read_scores(file, spec);
  mark_phi3_tokens(file, spec);
  read_special_ids(file, /*add_bos_by_default=*/true, spec);
}

}  // namespace

std::shared_ptr<const TokenizerData> load_gguf_vocabulary(const core::GgufFile& file) {
  VocabularySpec spec;
  spec.what = fmt::format("tokenizer: {}", file.path().string());
  const auto& model = file.get_string("tokenizer.ggml.model");
  if (model == "gpt2") {
    read_byte_level(file, spec);
  } else if (model == "llama") {
    read_sentencepiece(file, spec);
  } else {
    input_error(
        "{}: vocabulary of kind '{}' cannot be read: use a model with byte-level BPE "
        "('gpt2') or SentencePiece's BPE ('llama')",
        spec.what, printable(model));
  }
  spec.chat_template = file.get_string_or("tokenizer.chat_template", "");
  return std::make_shared<TokenizerData>(spec);
}

}  // namespace gsa::text
