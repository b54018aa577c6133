#include "core/log.h"

#include <utility>

namespace gsa::core {
namespace {
WarningHandler& handler() {
  static WarningHandler instance;
  return instance;
}
}  // namespace

void set_warning_handler(WarningHandler new_handler) { handler() = std::move(new_handler); }

void log_warning(const std::string& message) {
  if (handler()) handler()(message);
}

}  // namespace gsa::core
