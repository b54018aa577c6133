#pragma once

#include <functional>
#include <string>

namespace gsa::core {

/// Receives the library's warnings; the library itself never prints. Default: they are dropped.
using WarningHandler = std::function<void(const std::string& message)>;

/// Replaces the process-wide handler. Call it before any other thread uses the library.
void set_warning_handler(WarningHandler handler);

/// Hands one line to the handler.
void log_warning(const std::string& message);

}  // namespace gsa::core
