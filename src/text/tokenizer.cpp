#include "text/tokenizer.h"

#include <algorithm>
#include <array>
#include <bit>
#include <deque>
#include <utility>

#include "core/error.h"
#include "core/log.h"
#include "core/utf8.h"
#include "text/metaspace.h"
#include "text/vocabulary_loaders.h"

namespace gsa::text {
namespace {

/// Bytes of a text where control tokens count; sorted, apart from each other.
struct MarkupRange {
  std::size_t begin;
  std::size_t end;
};

bool lies_in_markup(std::span<const MarkupRange> markup, std::size_t begin, std::size_t end) {
  const auto next = std::ranges::upper_bound(markup, begin, {}, &MarkupRange::begin);
  return next != markup.begin() && end <= std::prev(next)->end;
}

/// Remembers the tokens of words of the text being encoded: a slot per hash, the latest word stays.
class WordCache {
 public:
  explicit WordCache(std::size_t text_len)
      : slots_(std::bit_ceil(std::clamp<std::size_t>(text_len / 8, 64, 1 << 14))) {}

  struct Slot {
    std::string_view word;  // empty: free
    std::uint32_t num_ids = 0;
    std::array<std::int32_t, 11> ids;
  };

  Slot& slot_of(std::string_view word) {
    return slots_[std::hash<std::string_view>{}(word) & (slots_.size() - 1)];
  }

 private:
  std::vector<Slot> slots_;
};

constexpr std::size_t max_cached_word_len = 64;

/// Encodes one text, which is valid UTF-8.
class Encoder {
 public:
  Encoder(const TokenizerData& data, std::string_view text, std::vector<std::int32_t>& ids)
      : data_(data), text_(text), ids_(ids), splitter_(data.pre_tokenizer), cache_(text.size()) {}

  void encode(std::span<const MarkupRange> markup) {
    const auto allowed = [&](const AddedToken& token, std::size_t begin, std::size_t end) {
      return !token.special || lies_in_markup(markup, begin, end);
    };
    data_.raw_added.split(text_, allowed, [&](const AddedToken* token, auto begin, auto end) {
      if (token) {
        ids_.push_back(token->id);
      } else {
        encode_between_raw(begin, end, markup);
      }
    });
  }

 private:
  /// Text without those added tokens that are found before normalisation.
  void encode_between_raw(std::size_t begin, std::size_t end, std::span<const MarkupRange> markup) {
    auto text = text_.substr(begin, end - begin);
    bool is_changed = false;
    if (auto normalized = data_.normalizer.normalize(text)) {
      is_changed = true;
      text = keep(std::move(*normalized));
    }
    const auto allowed = [&](const AddedToken& token, std::size_t from, std::size_t to) {
      // Places in the text are lost where normalisation changed it: then all of it must be markup.
      return !token.special || (is_changed ? lies_in_markup(markup, begin, end)
                                           : lies_in_markup(markup, begin + from, begin + to));
    };
    data_.normalized_added.split(text, allowed, [&](const AddedToken* token, auto from, auto to) {
      if (token) {
        ids_.push_back(token->id);
      } else {
        encode_between_added(text.substr(from, to - from), /*is_start=*/begin == 0 && from == 0);
      }
    });
  }

  void encode_between_added(std::string_view text, bool is_start) {
    if (data_.metaspace_step) {
      auto spaced = metaspace_to_space(text);
      const auto prefix = *data_.metaspace_step;
      const bool wants_space = prefix == SpacePrefix::if_missing ||
                               (prefix == SpacePrefix::if_missing_at_start && is_start);
      if (wants_space && !spaced.starts_with(' ')) spaced.insert(0, 1, ' ');
      text = keep(std::move(spaced));
    }
    splitter_.split(text, [this](std::string_view word) { encode_word(word); });
  }

  /// Keeps a text that was made for as long as there may be words of it in the cache.
  std::string_view keep(std::string text) { return made_texts_.emplace_back(std::move(text)); }

  void encode_word(std::string_view word) {
    if (word.size() > max_cached_word_len) {
      encode_new_word(word);
      return;
    }
    auto& slot = cache_.slot_of(word);
    if (slot.word == word) {
      ids_.insert(ids_.end(), slot.ids.begin(), slot.ids.begin() + slot.num_ids);
      return;
    }
    const auto old_size = ids_.size();
    encode_new_word(word);
    const auto num_ids = ids_.size() - old_size;
    if (num_ids > slot.ids.size()) return;
    slot.word = word;
    slot.num_ids = static_cast<std::uint32_t>(num_ids);
    std::copy(ids_.begin() + static_cast<std::ptrdiff_t>(old_size), ids_.end(), slot.ids.begin());
  }

  void encode_new_word(std::string_view word) {
    if (data_.ignore_merges) {
      const auto id = data_.find(word);
      if (id && !data_.special[*id]) {
        ids_.push_back(*id);
        return;
      }
    }
    data_.bpe.encode(word, ids_);
  }

  const TokenizerData& data_;
  std::string_view text_;
  std::vector<std::int32_t>& ids_;
  std::deque<std::string> made_texts_;  // words in the cache are views into these and the text
  PreTokenizer::Splitter splitter_;
  WordCache cache_;
};

/// Valid UTF-8 of one text; one warning if it was not.
std::string to_valid_utf8(std::string_view text) {
  auto decoded = core::decode_utf8(text);
  if (decoded.num_replaced > 0) {
    core::log_warning(fmt::format(
        "tokenizer: {} ill-formed UTF-8 sequence(s), the first at byte {}; read as U+FFFD",
        decoded.num_replaced, decoded.first_bad_offset));
  }
  return std::move(decoded.text);
}

std::vector<std::int32_t> encode_valid(const TokenizerData& data, std::string_view text,
                                       std::span<const MarkupRange> markup, bool add_special) {
  std::vector<std::int32_t> ids;
  if (add_special) ids = data.prefix_ids;
  if (!text.empty()) Encoder(data, text, ids).encode(markup);
  if (add_special) ids.insert(ids.end(), data.suffix_ids.begin(), data.suffix_ids.end());
  return ids;
}

}  // namespace

Tokenizer::Tokenizer(std::shared_ptr<const TokenizerData> data) : data_(std::move(data)) {}

Tokenizer Tokenizer::from_gguf(const core::GgufFile& file) {
  return Tokenizer(load_gguf_vocabulary(file));
}

Tokenizer Tokenizer::from_directory(const std::filesystem::path& dir) {
  return Tokenizer(load_hf_vocabulary(dir));
}

std::vector<std::int32_t> Tokenizer::encode(std::string_view text, EncodeOptions options) const {
  const auto valid = to_valid_utf8(text);
  std::vector<MarkupRange> markup;
  if (options.parse_special) markup.push_back({0, valid.size()});
  return encode_valid(*data_, valid, markup, options.add_special);
}

std::vector<std::int32_t> Tokenizer::encode(std::span<const PromptPiece> prompt,
                                            bool add_special) const {
  std::string text;
  std::vector<MarkupRange> markup;
  for (const auto& piece : prompt) {
    const auto begin = text.size();
    text += to_valid_utf8(piece.text);
    if (!piece.is_markup) continue;
    if (!markup.empty() && markup.back().end == begin) {
      markup.back().end = text.size();
    } else {
      markup.push_back({begin, text.size()});
    }
  }
  return encode_valid(*data_, text, markup, add_special);
}

std::string Tokenizer::decode(std::span<const std::int32_t> ids, bool skip_special) const {
  std::string bytes;
  for (const auto id : ids) {
    if (!(skip_special && is_special(id))) bytes += token_bytes(id);
  }
  auto text = core::decode_utf8(bytes).text;
  if (hides_first_space() && text.starts_with(' ')) text.erase(0, 1);
  return text;
}

bool Tokenizer::hides_first_space() const { return data_->hides_first_space; }

const std::string& Tokenizer::token_bytes(std::int32_t id) const {
  static const std::string none;
  return data_->contains(id) ? data_->token_bytes[id] : none;
}

bool Tokenizer::is_special(std::int32_t id) const {
  return data_->contains(id) && data_->special[id];
}

std::optional<std::int32_t> Tokenizer::find_token(std::string_view text) const {
  return data_->find(text);
}

std::int32_t Tokenizer::vocab_size() const {
  return static_cast<std::int32_t>(data_->token_bytes.size());
}

std::optional<std::int32_t> Tokenizer::bos_id() const { return data_->bos_id; }
std::optional<std::int32_t> Tokenizer::eos_id() const { return data_->eos_id; }
const std::vector<std::int32_t>& Tokenizer::end_of_turn_ids() const {
  return data_->end_of_turn_ids;
}
const std::string& Tokenizer::chat_template() const { return data_->chat_template; }
const std::vector<bool>& Tokenizer::word_starts() const { return data_->word_starts; }
const std::string& Tokenizer::digest() const { return data_->digest; }

}  // namespace gsa::text
