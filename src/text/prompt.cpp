#include "text/prompt.h"

namespace gsa::text {

std::string prompt_text(const Prompt& prompt) {
  std::string text;
  for (const auto& piece : prompt) text += piece.text;
  return text;
}

}  // namespace gsa::text
