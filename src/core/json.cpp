#include "core/json.h"

#include <nlohmann/json.hpp>
#include <set>
#include <vector>

#include "core/error.h"
#include "core/utf8.h"

namespace gsa::core {
namespace {

using nlohmann::json;

constexpr int max_depth = 128;

/// Watches the parser's events, so that a mistake is refused before the tree grows further.
class StructureCheck {
 public:
  StructureCheck(std::string_view what, DuplicateKeys duplicates)
      : what_(what), duplicates_(duplicates) {}

  void operator()(std::size_t depth, json::parse_event_t event, const json& value) {
    using Event = json::parse_event_t;
    if (event == Event::object_start || event == Event::array_start) {
      if (depth >= max_depth) {
        input_error("json: {}: nested deeper than {} levels; the file is damaged or hostile", what_,
                    max_depth);
      }
      if (duplicates_ == DuplicateKeys::refuse) {
        keys_.resize(depth + 1);
        keys_[depth].clear();
      }
    } else if (event == Event::key && duplicates_ == DuplicateKeys::refuse) {
      const auto& key = value.get_ref<const std::string&>();
      if (!keys_[depth - 1].insert(key).second) {
        input_error("json: {}: the key '{}' appears twice; the file is damaged", what_,
                    printable(key));
      }
    }
  }

 private:
  std::string_view what_;
  DuplicateKeys duplicates_;
  std::vector<std::set<std::string>> keys_;  // of the open object of every depth
};

/// The value of `key`; nullptr if it is absent or null.
const json* find_value(const json& object, std::string_view key, std::string_view what) {
  if (!object.is_object())
    input_error("json: {}: is a JSON {}, not an object", what, object.type_name());
  const auto entry = object.find(key);
  return entry == object.end() || entry->is_null() ? nullptr : &*entry;
}

[[noreturn]] void kind_error(const json& value, std::string_view key, std::string_view what,
                             std::string_view wanted) {
  input_error("json: {}: '{}' is a JSON {}, it has to be {}", what, key, value.type_name(), wanted);
}

}  // namespace

json parse_json(std::string_view text, std::string_view what, DuplicateKeys duplicates) {
  StructureCheck check(what, duplicates);
  try {
    return json::parse(text, [&check](int depth, json::parse_event_t event, const json& value) {
      check(static_cast<std::size_t>(depth), event, value);
      return true;
    });
  } catch (const json::parse_error& error) {
    if (error.byte > text.size()) {
      input_error("json: {}: ends too early, after {} bytes; it is cut off or of another kind",
                  what, text.size());
    }
    input_error("json: {}: no valid JSON at byte {} of {}; the file is damaged or of another kind",
                what, error.byte, text.size());
  } catch (const json::exception& error) {
    // A number beyond every type is the one other thing that the parser reports.
    input_error("json: {}: {}", what, printable(error.what()));
  }
}

std::optional<std::int64_t> find_int(const json& object, std::string_view key,
                                     std::string_view what) {
  const json* value = find_value(object, key, what);
  if (value == nullptr) return std::nullopt;
  if (!value->is_number_integer()) kind_error(*value, key, what, "an integer");
  if (value->is_number_unsigned() && value->get<std::uint64_t>() > INT64_MAX) {
    input_error("json: {}: '{}' is {}, larger than any size", what, key,
                value->get<std::uint64_t>());
  }
  return value->get<std::int64_t>();
}

std::optional<double> find_float(const json& object, std::string_view key, std::string_view what) {
  const json* value = find_value(object, key, what);
  if (value == nullptr) return std::nullopt;
  if (!value->is_number()) kind_error(*value, key, what, "a number");
  return value->get<double>();
}

std::optional<bool> find_bool(const json& object, std::string_view key, std::string_view what) {
  const json* value = find_value(object, key, what);
  if (value == nullptr) return std::nullopt;
  if (!value->is_boolean()) kind_error(*value, key, what, "true or false");
  return value->get<bool>();
}

std::optional<std::string> find_string(const json& object, std::string_view key,
                                       std::string_view what) {
  const json* value = find_value(object, key, what);
  if (value == nullptr) return std::nullopt;
  if (!value->is_string()) kind_error(*value, key, what, "a string");
  return value->get<std::string>();
}

}  // namespace gsa::core
