#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace gsa::text {

/// "▁", which SentencePiece's vocabularies write for a space.
inline constexpr std::string_view metaspace = "\u2581";

/// The text with a space for every "▁".
std::string metaspace_to_space(std::string_view text);

/// The byte that a token spelled `<0x0A>` stands for; nothing for another spelling.
std::optional<char> byte_of_spelling(std::string_view token);

}  // namespace gsa::text
