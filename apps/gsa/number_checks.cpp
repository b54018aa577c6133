#include "number_checks.h"

#include <fmt/format.h>

#include <charconv>
#include <cmath>
#include <optional>
#include <string>
#include <utility>

#include "core/utf8.h"

namespace gsa::apps {
namespace {

template <typename T>
std::optional<T> parse(const std::string& text) {
  T value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

/// `bounds` stands in the help, too.
template <typename T, typename Fits>
CLI::Validator number_that(Fits fits, const char* kind, std::string bounds) {
  const auto error_of = [=](const std::string& text) -> std::string {
    const std::optional<T> value = parse<T>(text);
    if (value && fits(*value)) return "";
    return fmt::format("'{}': give a {}, {}", core::printable(text), kind, bounds);
  };
  return {error_of, bounds};
}

template <typename Fits>
CLI::Validator finite_number_that(Fits fits, std::string bounds) {
  return number_that<double>([=](double value) { return std::isfinite(value) && fits(value); },
                             "number", std::move(bounds));
}

}  // namespace

CLI::Validator above_zero() {
  return finite_number_that([](double value) { return value > 0; }, "above 0");
}

CLI::Validator zero_or_more() {
  return finite_number_that([](double value) { return value >= 0; }, "0 or more");
}

CLI::Validator between(double least, double most) {
  return finite_number_that([=](double value) { return value >= least && value <= most; },
                            fmt::format("{} to {}", least, most));
}

CLI::Validator whole_number(std::int64_t least, std::int64_t most) {
  const bool is_bounded = most < std::numeric_limits<std::int64_t>::max();
  return number_that<std::int64_t>(
      [=](std::int64_t value) { return value >= least && value <= most; }, "whole number",
      is_bounded ? fmt::format("{} to {}", least, most) : fmt::format("{} or more", least));
}

}  // namespace gsa::apps
