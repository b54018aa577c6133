#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace gsa::text {

/// A token that is found in the text as it stands, before byte pairs are merged. The flags are
/// those of tokenizer.json.
struct AddedToken {
  std::int32_t id = 0;
  std::string content;
  bool special = false;      ///< a control token
  bool single_word = false;  ///< only where no word character touches it
  bool lstrip = false;       ///< takes the white space before it
  bool rstrip = false;       ///< takes the white space behind it
  bool normalized = false;   ///< is looked for after the text was normalised
};

/// Finds added tokens: leftmost first, the longest of those that begin at one place.
class AddedTokens {
 public:
  AddedTokens() = default;
  explicit AddedTokens(std::vector<AddedToken> tokens);

  /// May this token count between these bytes?
  using Allowed = std::function<bool(const AddedToken&, std::size_t begin, std::size_t end)>;

  /// Hands the text to `emit` in order, as tokens and as the text between them.
  void split(std::string_view text, const Allowed& allowed,
             const std::function<void(const AddedToken* token, std::size_t begin, std::size_t end)>&
                 emit) const;

 private:
  const AddedToken* longest_at(std::string_view text, std::size_t begin,
                               const Allowed& allowed) const;

  std::vector<AddedToken> tokens_;            // ordered by content
  std::array<bool, 256> is_first_byte_ = {};  // of any token
};

}  // namespace gsa::text
