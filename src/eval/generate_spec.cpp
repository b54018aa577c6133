#include <fmt/ranges.h>

#include <array>
#include <charconv>
#include <set>

#include "core/error.h"
#include "core/split.h"
#include "core/utf8.h"
#include "eval/generate.h"

namespace gsa::eval {
namespace {

using core::input_error;
using core::printable;
using Kind = GeneratedTask::Kind;

constexpr std::array<std::pair<std::string_view, Kind>, 5> kinds = {
    {{"passkey", Kind::passkey},
     {"needle", Kind::needle},
     {"kv", Kind::kv},
     {"lines", Kind::lines},
     {"perplexity", Kind::perplexity}}};
constexpr std::int64_t max_length = 1 << 22;
constexpr std::int64_t max_per_cell = 1000;
constexpr std::int64_t max_needles = 64;
constexpr std::int64_t max_predicted = 65536;
constexpr std::size_t max_list_len = 64;

const Kind* find_kind(std::string_view name) {
  for (const auto& [known, kind] : kinds)
    if (known == name) return &kind;
  return nullptr;
}

/// Reads the options of one specification.
class Parser {
 public:
  explicit Parser(std::string_view spec) : spec_(printable(spec)) {}

  std::int64_t integer(std::string_view option, std::string_view text, std::int64_t low,
                       std::int64_t high) const {
    std::int64_t scale = 1;
    std::string_view digits = text;
    if (option == "lengths" && !digits.empty() && (digits.back() == 'k' || digits.back() == 'K')) {
      scale = 1024;
      digits.remove_suffix(1);
    }
    std::int64_t value = 0;
    const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
    const bool is_whole = error == std::errc() && end == digits.data() + digits.size();
    if (!is_whole || value < 0 || value > high / scale || value * scale < low) {
      input_error("task '{}': {} is '{}': give a whole number from {} to {}", spec_, option,
                  printable(text), low, high);
    }
    return value * scale;
  }

  std::vector<std::int64_t> integers(std::string_view option, std::string_view text,
                                     std::int64_t low, std::int64_t high) const {
    std::vector<std::int64_t> values;
    std::set<std::int64_t> seen;
    for (std::string_view part : core::split(text, ',')) {
      if (option == "depths" && part.ends_with('%')) part.remove_suffix(1);
      values.push_back(integer(option, part, low, high));
      if (!seen.insert(values.back()).second)
        input_error("task '{}': {} holds {} twice", spec_, option, values.back());
    }
    if (values.size() > max_list_len) {
      input_error("task '{}': {} holds {} values: give at most {}", spec_, option, values.size(),
                  max_list_len);
    }
    return values;
  }

  void set(GeneratedTask& task, std::string_view option, std::string_view value) const {
    const bool is_needle = task.kind == Kind::needle;
    const bool is_perplexity = task.kind == Kind::perplexity;
    if (option == "name") {
      task.name = value;
    } else if (option == "lengths") {
      task.lengths = integers(option, value, 1, max_length);
    } else if (option == "depths" && !is_perplexity) {
      task.depths.clear();
      for (const std::int64_t percent : integers(option, value, 0, 100))
        task.depths.push_back(static_cast<double>(percent) / 100);
    } else if (option == "n") {
      task.num_per_cell = integer(option, value, 1, max_per_cell);
    } else if (option == "seed" && !is_perplexity) {
      task.seed = static_cast<std::uint64_t>(integer(option, value, 0, INT64_MAX));
    } else if (is_perplexity && option == "predict") {
      task.num_predicted = integer(option, value, 2, max_predicted);
    } else if ((is_needle || is_perplexity) && option == "haystack") {
      task.haystack = value;
    } else if (is_needle && option == "keys") {
      task.num_keys = integer(option, value, 1, max_needles);
    } else if (is_needle && option == "values") {
      task.num_values = integer(option, value, 1, max_needles);
    } else {
      const char* names = is_perplexity ? "n, haystack, predict"
                          : is_needle   ? "depths, n, seed, haystack, keys, values"
                                        : "depths, n, seed";
      input_error("task '{}': there is no option '{}': use name, lengths, {}", spec_,
                  printable(option), names);
    }
  }

  const std::string& spec() const { return spec_; }

 private:
  std::string spec_;
};

}  // namespace

bool is_generated(std::string_view spec) {
  return find_kind(spec.substr(0, spec.find(':'))) != nullptr;
}

GeneratedTask parse_generated(std::string_view spec) {
  const Parser parser(spec);
  auto parts = core::split(spec, ':');
  const Kind* kind = find_kind(parts.front());
  if (kind == nullptr) {
    input_error(
        "task '{}': there is no such task: use passkey, needle, kv, lines, perplexity or a file",
        parser.spec());
  }
  GeneratedTask task;
  task.kind = *kind;
  std::set<std::string_view> seen;
  for (const std::string_view part : std::span(parts).subspan(1)) {
    const std::size_t at = part.find('=');
    const std::string_view option = part.substr(0, at);
    if (at == std::string_view::npos || part.size() == at + 1) {
      input_error("task '{}': '{}' has no value: write {}=VALUE", parser.spec(), printable(part),
                  printable(option));
    }
    if (!seen.insert(option).second)
      input_error("task '{}': {} is given twice", parser.spec(), printable(option));
    parser.set(task, option, part.substr(at + 1));
  }
  if (task.kind == Kind::needle && task.haystack.empty()) {
    input_error("task '{}': a needle needs a text to hide in: give haystack=FILE", parser.spec());
  }
  if (task.kind == Kind::perplexity && task.haystack.empty())
    input_error("task '{}': perplexity needs a text: give haystack=FILE", parser.spec());
  return task;
}

}  // namespace gsa::eval
