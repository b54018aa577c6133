#include "eval/perplexity.h"

#include <algorithm>

#include "core/error.h"

namespace gsa::eval {
namespace {

/// A text and where its tokens begin, moved to the beginning of a character.
class TokenizedText {
 public:
  TokenizedText(const std::string& text, const text::Tokenizer& tokenizer) : text_(text) {
    std::size_t at = 0;
    for (const std::int32_t id : tokenizer.encode(text)) {
      begins_.push_back(character_begin(at));
      at += tokenizer.token_bytes(id).size();
      if (begins_.size() == 1 && tokenizer.hides_first_space() && at > 0) --at;
    }
    begins_.push_back(text.size());
  }

  std::int64_t num_tokens() const { return std::ssize(begins_) - 1; }

  std::string part(std::int64_t begin, std::int64_t end) const {
    const std::size_t first = begins_[static_cast<std::size_t>(begin)];
    return text_.substr(first, begins_[static_cast<std::size_t>(end)] - first);
  }

 private:
  std::size_t character_begin(std::size_t at) const {
    at = std::min(at, text_.size());
    while (at > 0 && at < text_.size() && (text_[at] & 0xc0) == 0x80) --at;
    return at;
  }

  const std::string& text_;
  std::vector<std::size_t> begins_;
};

}  // namespace

Task make_perplexity_task(const PerplexityOptions& options, const std::string& text,
                          const std::string& source, const text::Tokenizer& tokenizer) {
  const TokenizedText tokens(text, tokenizer);
  const std::int64_t longest = *std::ranges::max_element(options.lengths);
  const std::int64_t num_free = tokens.num_tokens() - longest - options.num_predicted;
  if (num_free < 0) {
    core::input_error(
        "task: {}: it has {} tokens, perplexity reads up to {} and predicts {} more: give a longer "
        "text or shorter lengths",
        source, tokens.num_tokens(), longest, options.num_predicted);
  }
  Task task{options.name, {}, {}};
  task.format.name = kPerplexityName;
  task.format.prompt = engine::PromptFormat{"", "", "", /*use_chat_template=*/false};
  for (const std::int64_t length : options.lengths) {
    for (std::int64_t i = 0; i < options.num_per_length; ++i) {
      const std::int64_t end =
          longest + num_free * i / std::max<std::int64_t>(1, options.num_per_length - 1);
      TaskItem item;
      item.id = fmt::format("{}-{}", length, i);
      item.documents = {tokens.part(end - length, end)};
      item.answers = {tokens.part(end, end + options.num_predicted)};
      item.length = length;
      task.items.push_back(std::move(item));
    }
  }
  return task;
}

bool is_loss(std::string_view metric) { return metric == kPerplexityName; }

bool is_perplexity(const Task& task) { return task.format.name == kPerplexityName; }

}  // namespace gsa::eval
