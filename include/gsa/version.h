#pragma once

#include <string_view>

namespace gsa {

/// Version of the linked library, "major.minor.patch".
std::string_view version();

}  // namespace gsa
