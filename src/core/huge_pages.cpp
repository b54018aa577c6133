#include "core/huge_pages.h"

#include <cstdlib>

#include "core/error.h"
#ifdef __linux__
#include <sys/mman.h>
#endif

namespace gsa::core {

void* allocate_huge_pages(std::size_t bytes) {
  void* memory = nullptr;
  if (posix_memalign(&memory, kHugePageBytes, bytes > 0 ? bytes : 1) != 0) {
    resource_error(
        "out of memory: cannot allocate {} MB; use a shorter context or fewer conversations",
        bytes >> 20);
  }
#ifdef MADV_HUGEPAGE
  // Only whole pages: a part of one would take the memory of all of it. A refusal costs speed
  // alone.
  const std::size_t whole = bytes / kHugePageBytes * kHugePageBytes;
  if (whole > 0) (void)madvise(memory, whole, MADV_HUGEPAGE);
#endif
  return memory;
}

void free_huge_pages(void* memory) { std::free(memory); }

}  // namespace gsa::core
