#include "train/text_mix.h"

#include <algorithm>
#include <string_view>

namespace gsa::train {
namespace {

using Tokens = std::span<const std::int32_t>;

bool ends_sentence(std::string_view token) {
  if (token.ends_with('"') || token.ends_with('\'')) token.remove_suffix(1);
  return token.ends_with('.') || token.ends_with('!') || token.ends_with('?');
}

/// The next place from `begin` on that a sentence may be put at.
std::int64_t snapped(Tokens text, std::int64_t begin, const text::Tokenizer& tokenizer) {
  constexpr std::int64_t max_shift = 128;
  const auto& word_starts = tokenizer.word_starts();
  const std::int64_t end = std::min<std::int64_t>(std::ssize(text), begin + max_shift);
  std::int64_t first_word = -1;
  for (std::int64_t i = begin; i < end; ++i) {
    if (!word_starts[text[i]]) continue;
    if (i == 0) return i;
    const std::string& here = tokenizer.token_bytes(text[i]);
    if (!here.starts_with(' ') && !here.starts_with('\n')) continue;  // marks begin words, too
    if (first_word < 0) first_word = i;
    if (ends_sentence(tokenizer.token_bytes(text[i - 1]))) return i;
  }
  if (first_word >= 0) return first_word;
  if (end == std::ssize(text)) return end;
  while (begin > 0 && !word_starts[text[begin]]) --begin;  // not within a character
  return begin;
}

/// Without what stands of a word at the beginning and the end; all of it if no word begins.
Tokens whole_words(Tokens text, const std::vector<bool>& word_starts) {
  std::size_t begin = 0, end = text.size();
  while (begin < end && !word_starts[text[begin]]) ++begin;
  while (end > begin && !word_starts[text[end - 1]]) --end;
  return begin == end ? text : text.subspan(begin, end - 1 - begin);
}

}  // namespace

TextMix mix_sentences(Tokens text, std::span<const std::vector<std::int32_t>> sentences,
                      MixPlaces places, const text::Tokenizer& tokenizer, core::Rng rng) {
  TextMix mix;
  if (places == MixPlaces::between_sentences) text = whole_words(text, tokenizer.word_starts());
  const auto len = std::ssize(text), count = std::ssize(sentences);
  std::int64_t begin = 0;
  const auto add_text = [&](std::int64_t end) {
    mix.parts.emplace_back(text.begin() + begin, text.begin() + end);
    mix.tokens.insert(mix.tokens.end(), text.begin() + begin, text.begin() + end);
    begin = end;
  };
  for (std::int64_t i = 0; i < count; ++i) {
    std::int64_t end = len * i / count + rng.below(static_cast<std::uint32_t>(len / count + 1));
    if (places == MixPlaces::between_sentences)
      end = std::max(begin, snapped(text, end, tokenizer));
    add_text(end);
    mix.tokens.insert(mix.tokens.end(), sentences[i].begin(), sentences[i].end());
  }
  add_text(len);
  return mix;
}

}  // namespace gsa::train
