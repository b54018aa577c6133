#include <algorithm>
#include <numeric>

#include "eval/task.h"
#include "text/tokenizer.h"

namespace gsa::eval {
namespace {

/// What the prompt puts between two documents.
constexpr std::string_view separator = "\n\n";

std::string join(const std::vector<std::string>& documents) {
  std::string joined;
  for (std::size_t i = 0; i < documents.size(); ++i)
    joined.append(i == 0 ? "" : separator).append(documents[i]);
  return joined;
}

bool begins_character(char byte) { return (byte & 0xc0) != 0x80; }

std::size_t num_bytes(const text::Tokenizer& tokenizer, std::span<const std::int32_t> ids) {
  std::size_t count = 0;
  for (const std::int32_t id : ids) count += tokenizer.token_bytes(id).size();
  return count;
}

/// Bytes at both ends of a prompt that stay.
struct Ends {
  std::size_t front, back;
};

Ends ends_of(const std::string& prompt, std::span<const std::int32_t> ids,
             const text::Tokenizer& tokenizer, std::size_t half) {
  Ends ends{num_bytes(tokenizer, ids.first(half)), num_bytes(tokenizer, ids.last(half))};
  if (tokenizer.hides_first_space() && ends.front > 0) --ends.front;
  ends.front = std::min(ends.front, prompt.size());
  ends.back = std::min(ends.back, prompt.size() - ends.front);
  while (ends.front > 0 && ends.front < prompt.size() && !begins_character(prompt[ends.front]))
    --ends.front;
  while (ends.back > 0 && !begins_character(prompt[prompt.size() - ends.back])) --ends.back;
  return ends;
}

/// The documents without the bytes [begin, end) of all of them with their separators; those of
/// which nothing stays are left out.
std::vector<std::string> cut(const std::vector<std::string>& documents, std::size_t begin,
                             std::size_t end) {
  std::vector<std::string> kept;
  std::size_t start = 0;
  for (const std::string& document : documents) {
    const auto inside = [&](std::size_t at) {
      return std::clamp(at, start, start + document.size()) - start;
    };
    std::string rest = document.substr(0, inside(begin)) + document.substr(inside(end));
    if (!rest.empty()) kept.push_back(std::move(rest));
    start += document.size() + separator.size();
  }
  return kept;
}

}  // namespace

bool truncate_middle(TaskItem& item, const TaskFormat& format, const text::Tokenizer& tokenizer,
                     std::int64_t max_tokens) {
  const engine::PromptFormat prompt =
      format.prompt.value_or(engine::PromptFormat{"", std::string(separator), ""});
  const std::string after = prompt.before_question + item.question + prompt.after_question;
  const std::string documents = join(item.documents);
  const std::string whole = prompt.before + documents + after;
  const auto ids = tokenizer.encode(whole);
  if (std::ssize(ids) <= max_tokens) return false;
  const std::int64_t half = std::max<std::int64_t>(max_tokens, 0) / 2;
  Ends ends = ends_of(whole, ids, tokenizer, half);
  if (ends.front > prompt.before.size() && ends.back > after.size()) {
    ends.front -= prompt.before.size();
    ends.back -= after.size();
  } else {
    const std::int64_t num_around =
        std::ssize(tokenizer.encode(prompt.before)) + std::ssize(tokenizer.encode(after));
    const auto document_ids = tokenizer.encode(documents);
    const std::int64_t rest = std::min((max_tokens - num_around) / 2, std::ssize(document_ids) / 2);
    if (rest < 1) {
      core::input_error(
          "task: item '{}': {} tokens leave no room for its context beside the question: allow "
          "more",
          item.id, max_tokens);
    }
    ends = ends_of(documents, document_ids, tokenizer, rest);
  }
  item.documents = cut(item.documents, ends.front, documents.size() - ends.back);
  return true;
}

}  // namespace gsa::eval
