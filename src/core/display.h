#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace gsa::core {

/// "1.5 GB", "23 kB": decimal units, three digits.
std::string format_bytes(double bytes);
/// "7,120"
std::string format_count(std::int64_t count);
/// "12.3 %"
std::string format_percent(double fraction);

/// A text (UTF-8) as HTML and XML take it between tags and in quoted attributes. Control
/// characters that neither can say become U+FFFD.
std::string escape_markup(std::string_view text);

}  // namespace gsa::core
