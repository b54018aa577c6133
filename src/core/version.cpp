#include "gsa/version.h"

namespace gsa {

std::string_view version() { return GSA_VERSION; }  // set by the build

}  // namespace gsa
