#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>

namespace gsa::core {

/// What to do with a key that one object has twice: formats differ.
enum class DuplicateKeys { last_wins, refuse };

/// Parses one JSON text. `what` (usually the path) begins the message of the input error that names
/// the byte offset of a mistake. Nesting deeper than 128 levels is refused.
nlohmann::json parse_json(std::string_view text, std::string_view what,
                          DuplicateKeys duplicates = DuplicateKeys::last_wins);

/// Typed look-ups in a JSON object: nothing if the key is absent or null, input error (with `what`
/// and the key) if the value is of another kind or `object` is no object.
std::optional<std::int64_t> find_int(const nlohmann::json& object, std::string_view key,
                                     std::string_view what);
std::optional<double> find_float(const nlohmann::json& object, std::string_view key,
                                 std::string_view what);
std::optional<bool> find_bool(const nlohmann::json& object, std::string_view key,
                              std::string_view what);
std::optional<std::string> find_string(const nlohmann::json& object, std::string_view key,
                                       std::string_view what);

}  // namespace gsa::core
