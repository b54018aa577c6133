#pragma once

#include <gmock/gmock.h>

#include <optional>
#include <string>

#include "gsa/error.h"

namespace gsa::test {

/// The gsa::Error that `action` throws; nothing if it returns. Other exceptions pass through.
template <typename Action>
std::optional<Error> error_of(Action&& action) {
  try {
    action();
  } catch (const Error& error) {
    return error;
  }
  return std::nullopt;
}

/// An error of this kind whose message is one line that holds `part`.
/// Use: EXPECT_THAT(error_of([&] { ... }), IsError(ErrorKind::input, "not a number"));
MATCHER_P2(IsError, kind, part, "") {
  if (!arg) {
    *result_listener << "nothing was thrown";
    return false;
  }
  const std::string message = arg->what();
  *result_listener << "the message is: " << message;
  return arg->kind() == kind && message.find(part) != std::string::npos &&
         message.find('\n') == std::string::npos;
}

}  // namespace gsa::test
