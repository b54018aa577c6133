#pragma once

#include <string>
#include <string_view>

namespace gsa::text {

/// Appends the bytes that a token spelled in GPT-2's byte alphabet stands for (one visible
/// character per byte, a space is "Ġ"). False, and `bytes` unchanged, if another character occurs.
bool append_spelled_bytes(std::string_view spelled, std::string& bytes);

}  // namespace gsa::text
