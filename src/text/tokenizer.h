#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "text/prompt.h"

namespace gsa::core {
class GgufFile;
}

namespace gsa::text {

struct TokenizerData;

/// How a text becomes tokens.
struct EncodeOptions {
  /// Recognise control tokens (`<|im_end|>`) written in the text. Off for documents and other
  /// content, so that it cannot end a turn. Vocabulary that merely is an added word is always
  /// found.
  bool parse_special = false;
  /// Add what the model puts around a text of its own (usually a begin-of-text token, or nothing).
  /// Off for rendered chat templates: they spell out their control tokens.
  bool add_special = false;
};

/// Byte-level BPE of the GPT-2, Llama 3, Qwen2/3 and SmolLM families, and SentencePiece's BPE of
/// Llama 2 and Phi-3. Immutable: one object may be used from several threads, copies share the
/// vocabulary.
class Tokenizer {
 public:
  /// Reads `tokenizer.ggml.*` of a GGUF file. Input error for another kind of vocabulary, for an
  /// unknown `tokenizer.ggml.pre` and for damaged data.
  static Tokenizer from_gguf(const core::GgufFile& file);

  /// Reads `tokenizer.json`, and `tokenizer_config.json` and `chat_template.jinja` where present.
  static Tokenizer from_directory(const std::filesystem::path& dir);

  /// Token ids of one text. Ill-formed UTF-8 becomes U+FFFD with one warning that names the offset.
  std::vector<std::int32_t> encode(std::string_view text, EncodeOptions options = {}) const;

  /// Token ids of a rendered prompt: control tokens are recognised in its markup only. The pieces
  /// are otherwise encoded as one text, as if they had been joined before.
  std::vector<std::int32_t> encode(std::span<const PromptPiece> prompt,
                                   bool add_special = false) const;

  /// Text of ids; bytes that are no UTF-8 become U+FFFD. `skip_special` leaves control tokens out.
  /// Ids outside the vocabulary (rows that pad an embedding) decode to nothing. A space that the
  /// text begins with is left out if `hides_first_space()`.
  std::string decode(std::span<const std::int32_t> ids, bool skip_special = true) const;

  /// Encoding puts a space in front of a text, which decoding takes away again.
  bool hides_first_space() const;

  /// Bytes a token stands for, not always whole characters; empty outside the vocabulary.
  const std::string& token_bytes(std::int32_t id) const;
  /// Control token: has a function (begin, end of turn) and no text of its own.
  bool is_special(std::int32_t id) const;
  /// Id of the token with exactly this text.
  std::optional<std::int32_t> find_token(std::string_view text) const;
  /// Largest id plus one. The model's embedding may have more rows.
  std::int32_t vocab_size() const;

  std::optional<std::int32_t> bos_id() const;
  std::optional<std::int32_t> eos_id() const;
  /// Every token that ends generation: eos and the usual end-of-turn and end-of-text tokens.
  const std::vector<std::int32_t>& end_of_turn_ids() const;

  /// Jinja text of the model's chat template, empty if it has none.
  const std::string& chat_template() const;

  /// A bit per id: the token starts a word (method §1.3), or decodes to nothing.
  const std::vector<bool>& word_starts() const;

  /// SHA-256 (hexadecimal) over tokens and, of byte-level BPE, merges; equal for the GGUF and the
  /// Hugging Face form of one vocabulary.
  const std::string& digest() const;

 private:
  explicit Tokenizer(std::shared_ptr<const TokenizerData> data);

  std::shared_ptr<const TokenizerData> data_;
};

}  // namespace gsa::text
