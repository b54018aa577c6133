#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace gsa::text {

/// What happens to a text between added tokens before it is cut into words.
struct Normalizer {
  bool nfc = false;            ///< normalisation form C
  bool unify_spaces = false;   ///< "▁" and a space are one character, here the space
  bool prepend_space = false;  ///< a space in front, whatever the text begins with

  /// The normalised form of valid UTF-8 that is not empty; nothing if it is the text itself.
  std::optional<std::string> normalize(std::string_view text) const;
};

}  // namespace gsa::text
