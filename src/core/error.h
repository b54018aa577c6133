#pragma once

#include <fmt/format.h>

#include <utility>

#include "gsa/error.h"

namespace gsa::core {

/// Throws an Error the user can act on (bad file content, flag, length).
template <typename... Args>
[[noreturn]] void input_error(fmt::format_string<Args...> format, Args&&... args) {
  throw Error(ErrorKind::input, fmt::format(format, std::forward<Args>(args)...));
}

/// Throws an Error for a failed file, device or allocation.
template <typename... Args>
[[noreturn]] void resource_error(fmt::format_string<Args...> format, Args&&... args) {
  throw Error(ErrorKind::resource, fmt::format(format, std::forward<Args>(args)...));
}

/// Throws an Error that reports a bug of this library.
template <typename... Args>
[[noreturn]] void internal_error(fmt::format_string<Args...> format, Args&&... args) {
  throw Error(ErrorKind::internal, fmt::format(format, std::forward<Args>(args)...));
}

}  // namespace gsa::core
