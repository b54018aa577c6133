#pragma once

#include <span>

#include "engine/reading.h"
#include "text/tokenizer.h"

namespace gsa::engine {

/// Tokens of texts that stand one behind the other, a piece each, every text encoded for itself:
/// tokens of a document are the same wherever it stands.
ContextTokens encode_apart(const text::Tokenizer& tokenizer, std::span<const text::Prompt> texts);

/// The tokens that the texts have as one. A token that is part of two texts begins the later one's
/// piece. Where the tokenizer changes the text (normal form, spaces behind control tokens) borders
/// are not known, and the texts are encoded apart.
ContextTokens encode_together(const text::Tokenizer& tokenizer,
                              std::span<const text::Prompt> texts);

}  // namespace gsa::engine
