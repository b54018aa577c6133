#include "text/normalizer.h"

#include "text/metaspace.h"
#include "text/unicode.h"

namespace gsa::text {

std::optional<std::string> Normalizer::normalize(std::string_view text) const {
  std::optional<std::string> result;
  if (nfc && !is_surely_nfc(text)) result = to_nfc(text);
  if (unify_spaces && text.find(metaspace) != std::string_view::npos) {
    result = metaspace_to_space(result.value_or(std::string(text)));
  }
  if (prepend_space) result = ' ' + result.value_or(std::string(text));
  if (result == text) return std::nullopt;
  return result;
}

}  // namespace gsa::text
