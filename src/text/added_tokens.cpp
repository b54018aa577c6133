#include "text/added_tokens.h"

#include <algorithm>
#include <utility>

#include "text/unicode.h"

namespace gsa::text {
namespace {

bool touches_word(std::string_view text, std::size_t begin, std::size_t end) {
  return (begin > 0 && is_word_char(last_code_point(text.substr(0, begin)))) ||
         (end < text.size() && is_word_char(first_code_point(text.substr(end))));
}

}  // namespace

AddedTokens::AddedTokens(std::vector<AddedToken> tokens) : tokens_(std::move(tokens)) {
  std::erase_if(tokens_, [](const AddedToken& token) { return token.content.empty(); });
  std::ranges::stable_sort(tokens_, {}, &AddedToken::content);
  for (const auto& token : tokens_) {
    is_first_byte_[static_cast<unsigned char>(token.content[0])] = true;
  }
}

const AddedToken* AddedTokens::longest_at(std::string_view text, std::size_t begin,
                                          const Allowed& allowed) const {
  const AddedToken* longest = nullptr;
  auto first = tokens_.begin();
  auto last = tokens_.end();
  // Invariant: [first, last) are the tokens that begin with the `len` bytes at `begin`.
  for (std::size_t len = 0;; ++len) {
    for (; first != last && first->content.size() == len; ++first) {
      if (allowed(*first, begin, begin + len)) longest = &*first;
    }
    if (first == last || begin + len == text.size()) return longest;
    const auto byte = static_cast<unsigned char>(text[begin + len]);
    const auto byte_of = [len](const AddedToken& token) {
      return static_cast<unsigned char>(token.content[len]);
    };
    const auto same = std::ranges::equal_range(first, last, byte, {}, byte_of);
    first = same.begin();
    last = same.end();
  }
}

void AddedTokens::split(std::string_view text, const Allowed& allowed,
                        const std::function<void(const AddedToken* token, std::size_t begin,
                                                 std::size_t end)>& emit) const {
  std::size_t done = 0;
  for (std::size_t pos = 0; !tokens_.empty() && pos < text.size();) {
    const AddedToken* token = nullptr;
    if (is_first_byte_[static_cast<unsigned char>(text[pos])])
      token = longest_at(text, pos, allowed);
    if (!token) {
      ++pos;
      continue;
    }
    auto begin = pos;
    auto end = pos += token->content.size();
    if (token->single_word && touches_word(text, begin, end)) continue;
    if (token->lstrip) begin -= trailing_space_bytes(text.substr(0, begin));
    if (token->rstrip) end += leading_space_bytes(text.substr(end));
    begin = std::max(begin, done);  // the token before may have taken the white space
    if (done < begin) emit(nullptr, done, begin);
    emit(token, begin, std::max(begin, end));
    done = std::max(begin, end);
  }
  if (done < text.size()) emit(nullptr, done, text.size());
}

}  // namespace gsa::text
