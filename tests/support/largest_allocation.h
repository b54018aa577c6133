#pragma once

#include <cstddef>

namespace gsa::test {

/// The largest single request to operator new since the last reset. Counts in programs
/// that list support/largest_allocation.cpp among their sources.
std::size_t largest_allocation();
void reset_largest_allocation();

}  // namespace gsa::test
