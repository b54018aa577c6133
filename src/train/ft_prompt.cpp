#include "train/ft_prompt.h"

#include <algorithm>
#include <utility>

#include "core/error.h"

namespace gsa::train {
namespace {

constexpr std::string_view kSeparator = "\n\n";  // as engine::Session has it

std::int32_t find_end_of_turn(const text::Tokenizer& tokenizer) {
  if (tokenizer.eos_id()) return *tokenizer.eos_id();
  if (!tokenizer.end_of_turn_ids().empty()) return tokenizer.end_of_turn_ids().front();
  core::input_error("data: the model's vocabulary has no token that ends a turn");
}

/// The separator's tokens in front of a text. Alone it may be other tokens: a pattern that takes a
/// run of white space as a whole leaves its last character to a text that follows.
std::vector<std::int32_t> encode_separator(const text::Tokenizer& tokenizer,
                                           std::string_view text) {
  std::vector<std::int32_t> ids = tokenizer.encode(std::string(kSeparator).append(text));
  const std::vector<std::int32_t> tail = tokenizer.encode(text);
  if (ids.size() > tail.size() && std::equal(tail.rbegin(), tail.rend(), ids.rbegin())) {
    ids.resize(ids.size() - tail.size());
    return ids;
  }
  return tokenizer.encode(kSeparator);
}

}  // namespace

FtPrompt::FtPrompt(const text::Tokenizer& tokenizer)
    : FtPrompt(tokenizer, text::ChatTemplate::detect(tokenizer.chat_template())) {}

FtPrompt::FtPrompt(const text::Tokenizer& tokenizer, text::ChatTemplate chat_template)
    : tokenizer_(tokenizer),
      chat_template_(std::move(chat_template)),
      separator_(encode_separator(tokenizer, "A")),
      digit_separator_(encode_separator(tokenizer, "1")),
      end_of_turn_(find_end_of_turn(tokenizer)) {
  opening_ = tokenizer_.encode(render("").before);
}

const std::vector<std::int32_t>& FtPrompt::separator_before(
    std::span<const std::int32_t> document) const {
  if (document.empty()) return separator_;
  const std::string& text = tokenizer_.token_bytes(document.front());
  const bool begins_with_digit = !text.empty() && text[0] >= '0' && text[0] <= '9';
  return begins_with_digit ? digit_separator_ : separator_;
}

std::vector<std::int32_t> FtPrompt::question(std::string_view text) const {
  return tokenizer_.encode(render(text).after);
}

text::PromptParts FtPrompt::render(std::string_view question) const {
  const std::vector<text::Message> messages = {
      {"user", std::string(text::context_marker).append(kSeparator).append(question)}};
  text::RenderOptions options;
  options.thinking = text::Thinking::off;
  return chat_template_.render_around(messages, text::context_marker, options);
}

}  // namespace gsa::train
