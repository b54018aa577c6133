#include "engine/encode_context.h"

namespace gsa::engine {

ContextTokens encode_apart(const text::Tokenizer& tokenizer, std::span<const text::Prompt> texts) {
  ContextTokens context;
  for (const text::Prompt& text : texts) {
    const auto ids = tokenizer.encode(text);
    context.ids.insert(context.ids.end(), ids.begin(), ids.end());
    context.piece_ends.push_back(std::ssize(context.ids));
  }
  return context;
}

ContextTokens encode_together(const text::Tokenizer& tokenizer,
                              std::span<const text::Prompt> texts) {
  text::Prompt whole;
  for (const text::Prompt& text : texts) whole.insert(whole.end(), text.begin(), text.end());
  const auto ids = tokenizer.encode(whole);
  std::size_t num_bytes = 0;  // of tokens
  for (const std::int32_t id : ids) num_bytes += tokenizer.token_bytes(id).size();
  const std::size_t num_hidden = tokenizer.hides_first_space() ? 1 : 0;
  if (num_bytes != text::prompt_text(whole).size() + num_hidden)
    return encode_apart(tokenizer, texts);

  ContextTokens context{{ids.begin(), ids.end()}, {}};
  std::size_t token = 0, token_end = 0, text_end = num_hidden;
  for (const text::Prompt& text : texts) {
    text_end += text::prompt_text(text).size();
    for (; token < ids.size(); ++token) {
      const std::size_t next = token_end + tokenizer.token_bytes(ids[token]).size();
      if (next > text_end) break;
      token_end = next;
    }
    context.piece_ends.push_back(static_cast<std::int64_t>(token));
  }
  return context;
}

}  // namespace gsa::engine
