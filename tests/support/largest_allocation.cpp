#include "support/largest_allocation.h"

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <new>

namespace {
std::atomic<std::size_t> largest{0};
}

// Both forms: a sanitizer's own nothrow form would not go with the operator delete below.
void* operator new(std::size_t num_bytes, const std::nothrow_t&) noexcept {
  largest = std::max(largest.load(), num_bytes);
  return std::malloc(num_bytes);
}

void* operator new(std::size_t num_bytes) {
  if (void* memory = operator new(num_bytes, std::nothrow)) return memory;
  throw std::bad_alloc();
}

void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }

namespace gsa::test {

std::size_t largest_allocation() { return largest; }
void reset_largest_allocation() { largest = 0; }

}  // namespace gsa::test
