#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "core/rng.h"
#include "text/tokenizer.h"

namespace gsa::train {

/// A text with sentences put in.
struct TextMix {
  std::vector<std::int32_t> tokens;
  std::vector<std::vector<std::int32_t>> parts;  ///< of the text, between the sentences
};

/// Where sentences are put in.
enum class MixPlaces { between_tokens, between_sentences };

/// Puts each sentence into one of as many equal parts of a text, in order. The places are the same
/// shares of every length of the text. Between sentences: behind the end of the text's next one, or
/// at least where a word begins, within a few tokens of the place drawn; words that the text's ends
/// cut are left out.
TextMix mix_sentences(std::span<const std::int32_t> text,
                      std::span<const std::vector<std::int32_t>> sentences, MixPlaces places,
                      const text::Tokenizer& tokenizer, core::Rng rng);

}  // namespace gsa::train
