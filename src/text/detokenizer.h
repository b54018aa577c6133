#pragma once

#include <cstdint>
#include <string>

#include "text/tokenizer.h"

namespace gsa::text {

/// Turns a stream of tokens into a stream of whole characters: the pieces put together are what
/// `Tokenizer::decode` gives for all ids at once.
class Detokenizer {
 public:
  explicit Detokenizer(Tokenizer tokenizer, bool skip_special = true);

  /// Text that is complete now; bytes of an unfinished character wait for the next token.
  std::string push(std::int32_t id);

  /// What is left, an unfinished character as U+FFFD; the object is then as new.
  std::string finish();

 private:
  Tokenizer tokenizer_;
  bool skip_special_;
  bool is_start_ = true;  // no text has come yet
  std::string pending_;   // at most three bytes: the beginning of one character
};

}  // namespace gsa::text
