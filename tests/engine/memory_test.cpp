#include "engine/memory.h"

#include <gtest/gtest.h>

#include <cstring>
#include <memory>

namespace gsa::engine {
namespace {

constexpr std::int64_t kBlockBytes = 200 << 20;

void touch_a_large_block() {
  const std::unique_ptr<char[]> block(new char[kBlockBytes]);
  std::memset(block.get(), 1, kBlockBytes);
  const volatile char* kept = block.get();  // or the compiler drops the block
  EXPECT_EQ(kept[kBlockBytes / 2], 1);
}

TEST(Memory, PeakFollowsWhatWasTouched) {
  if (peak_memory_bytes() == 0) GTEST_SKIP() << "this system does not tell";
  reset_peak_memory();
  const std::int64_t before = peak_memory_bytes();
  touch_a_large_block();
  const std::int64_t after = peak_memory_bytes();
  EXPECT_GE(after, before + kBlockBytes * 9 / 10);
  EXPECT_LT(after, before + kBlockBytes * 2);
}

TEST(Memory, ResettingForgetsThePeak) {
  touch_a_large_block();
  const std::int64_t before = peak_memory_bytes();
  if (!reset_peak_memory()) GTEST_SKIP() << "this system does not allow it";
  EXPECT_LT(peak_memory_bytes(), before - kBlockBytes / 2);
}

TEST(Memory, AvailableMemoryIsPlausible) {
  const auto available_bytes = available_memory_bytes();
  if (!available_bytes) GTEST_SKIP() << "this system does not tell";
  EXPECT_GT(*available_bytes, 16 << 20);
  EXPECT_LT(*available_bytes, std::int64_t{1} << 50);
}

}  // namespace
}  // namespace gsa::engine
