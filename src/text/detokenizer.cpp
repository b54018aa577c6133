#include "text/detokenizer.h"

#include <utility>

#include "core/utf8.h"

namespace gsa::text {
namespace {

/// Bytes at the end that are the beginning of a character, and may still become one.
std::size_t unfinished_len(std::string_view bytes) {
  for (std::size_t len = 1; len <= 3 && len <= bytes.size(); ++len) {
    const auto byte = static_cast<unsigned char>(bytes[bytes.size() - len]);
    if ((byte & 0xc0) == 0x80) continue;
    if (byte < 0xc2 || byte > 0xf4) return 0;
    const std::size_t whole_len = byte < 0xe0 ? 2 : byte < 0xf0 ? 3 : 4;
    if (len >= whole_len) return 0;
    // One replacement character in all means that no byte so far contradicts the first.
    return core::decode_utf8(bytes.substr(bytes.size() - len)).num_replaced == 1 ? len : 0;
  }
  return 0;
}

}  // namespace

Detokenizer::Detokenizer(Tokenizer tokenizer, bool skip_special)
    : tokenizer_(std::move(tokenizer)), skip_special_(skip_special) {}

std::string Detokenizer::push(std::int32_t id) {
  if (skip_special_ && tokenizer_.is_special(id)) return "";
  pending_ += tokenizer_.token_bytes(id);
  const auto ready_len = pending_.size() - unfinished_len(pending_);
  auto text = core::decode_utf8(std::string_view(pending_).substr(0, ready_len)).text;
  pending_.erase(0, ready_len);
  if (text.empty()) return text;
  if (std::exchange(is_start_, false) && tokenizer_.hides_first_space() && text[0] == ' ') {
    text.erase(0, 1);
  }
  return text;
}

std::string Detokenizer::finish() {
  is_start_ = true;
  return core::decode_utf8(std::exchange(pending_, "")).text;
}

}  // namespace gsa::text
