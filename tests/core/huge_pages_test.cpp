#include "core/huge_pages.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>

#include "support/errors.h"
#include "support/resident.h"

namespace gsa::core {
namespace {

TEST(HugePages, BeginAtOneAndTakeEveryByte) {
  for (const std::size_t num_bytes : {std::size_t{0}, std::size_t{1}, kHugePageBytes - 1,
                                      kHugePageBytes, 2 * kHugePageBytes + 100'001}) {
    void* const memory = allocate_huge_pages(num_bytes);
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(memory) % kHugePageBytes, 0U);
    std::memset(memory, 1, num_bytes);
    free_huge_pages(memory, num_bytes);
  }
}

TEST(HugePages, GoBackToTheSystem) {
  constexpr std::size_t num_bytes = 3 * kHugePageBytes + 12'345;
  const std::int64_t size_before = test::status_bytes("VmSize");
  const std::int64_t resident_before = test::status_bytes("RssAnon");
  for (int i = 0; i < 100; ++i) {
    void* const memory = allocate_huge_pages(num_bytes);
    std::memset(memory, 1, num_bytes);
    free_huge_pages(memory, num_bytes);
  }
  EXPECT_LT(test::status_bytes("VmSize"), size_before + static_cast<std::int64_t>(num_bytes));
  EXPECT_LT(test::status_bytes("RssAnon"), resident_before + static_cast<std::int64_t>(num_bytes));
}

TEST(HugePages, MoreThanThereIsGivesAnError) {
  EXPECT_THAT(test::error_of([] { allocate_huge_pages(std::size_t{1} << 60); }),
              test::IsError(ErrorKind::resource, "out of memory"));
}

}  // namespace
}  // namespace gsa::core
