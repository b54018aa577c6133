#pragma once

#include <string>
#include <vector>

namespace gsa::text {

/// Part of a rendered prompt. Control tokens count in markup only: what a user wrote cannot end a
/// turn or open one.
struct PromptPiece {
  std::string text;
  bool is_markup = false;
};

/// A rendered prompt; its text is its pieces in order.
using Prompt = std::vector<PromptPiece>;

/// The text of a prompt.
std::string prompt_text(const Prompt& prompt);

}  // namespace gsa::text
