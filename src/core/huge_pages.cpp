#include "core/huge_pages.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdint>

#include "core/error.h"

namespace gsa::core {
namespace {

std::size_t round_up(std::size_t bytes, std::size_t unit) {
  return (bytes + unit - 1) / unit * unit;
}

/// What is mapped for `bytes` bytes; the size of a page is nowhere more than 64 KB.
std::size_t mapped_bytes(std::size_t bytes) {
  return round_up(std::max<std::size_t>(bytes, 1), std::size_t{1} << 16);
}

}  // namespace

void* allocate_huge_pages(std::size_t bytes) {
  const std::size_t size = mapped_bytes(bytes);
  // An address that is a multiple of a huge page lies somewhere in one page more.
  void* const mapping = ::mmap(nullptr, size + kHugePageBytes, PROT_READ | PROT_WRITE,
                               MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapping == MAP_FAILED) {
    resource_error(
        "out of memory: cannot allocate {} MB; use a shorter context or fewer conversations",
        bytes >> 20);
  }
  const auto begin = reinterpret_cast<std::uintptr_t>(mapping);
  const std::size_t before = round_up(begin, kHugePageBytes) - begin;
  char* const memory = static_cast<char*>(mapping) + before;
  if (before > 0) ::munmap(mapping, before);
  if (before < kHugePageBytes) ::munmap(memory + size, kHugePageBytes - before);
#ifdef MADV_HUGEPAGE
  // Only whole pages: a part of one would take the memory of all of it. A refusal costs speed
  // alone.
  const std::size_t whole = bytes / kHugePageBytes * kHugePageBytes;
  if (whole > 0) (void)::madvise(memory, whole, MADV_HUGEPAGE);
#endif
  return memory;
}

void free_huge_pages(void* memory, std::size_t bytes) { ::munmap(memory, mapped_bytes(bytes)); }

}  // namespace gsa::core
