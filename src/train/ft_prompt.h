#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "text/chat_template.h"
#include "text/tokenizer.h"

namespace gsa::train {

/// Token streams of questions about documents, the very ones that a session makes of them: the
/// chat's opening as a piece of its own, documents with blank lines between, the question behind
/// them.
class FtPrompt {
 public:
  /// Input error if the model's chat template is not known.
  explicit FtPrompt(const text::Tokenizer& tokenizer);
  FtPrompt(const text::Tokenizer& tokenizer, text::ChatTemplate chat_template);

  /// The piece before the documents.
  const std::vector<std::int32_t>& opening() const { return opening_; }
  /// What stands between two documents and begins the later one's piece. Tokenizers that set digits
  /// apart make other tokens of it in front of one. (A document that begins with white space may
  /// merge with it in a session.)
  const std::vector<std::int32_t>& separator_before(std::span<const std::int32_t> document) const;
  /// The suffix that asks a question, up to where the answer begins.
  std::vector<std::int32_t> question(std::string_view text) const;
  /// Ends an answer.
  std::int32_t end_of_turn() const { return end_of_turn_; }

 private:
  text::PromptParts render(std::string_view question) const;

  text::Tokenizer tokenizer_;
  text::ChatTemplate chat_template_;
  std::vector<std::int32_t> opening_;
  std::vector<std::int32_t> separator_, digit_separator_;
  std::int32_t end_of_turn_;
};

}  // namespace gsa::train
