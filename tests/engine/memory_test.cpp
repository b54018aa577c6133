#include "engine/memory.h"

#include <ATen/ops/empty.h>
#include <gtest/gtest.h>
#include <malloc.h>

#include <cinttypes>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <memory>
#include <span>
#include <string>

#include "attention/allocation_meter.h"
#include "support/resident.h"

namespace gsa::engine {
namespace {

constexpr std::int64_t kBlockBytes = 200 << 20;

void touch_a_large_block() {
  const std::unique_ptr<char[]> block(new char[kBlockBytes]);
  std::memset(block.get(), 1, kBlockBytes);
  const volatile char* kept = block.get();  // or the compiler drops the block
  EXPECT_EQ(kept[kBlockBytes / 2], 1);
}

/// The longest piece of code of this process: LibTorch's.
std::span<const char> longest_code() {
  std::span<const char> longest;
  std::ifstream mappings("/proc/self/maps");
  for (std::string line; std::getline(mappings, line);) {
    std::uintptr_t begin = 0, end = 0;
    const bool is_code = line.find(" r-xp ") != line.npos && line.find('/') != line.npos;
    if (!is_code || std::sscanf(line.c_str(), "%" SCNxPTR "-%" SCNxPTR, &begin, &end) != 2)
      continue;
    if (end - begin > longest.size()) longest = {reinterpret_cast<const char*>(begin), end - begin};
  }
  return longest;
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

// Freed tensors make room for tensors of their size, though all begin at a multiple of 64 bytes.
TEST(Memory, TensorsOfTheSameSizesNeedNoNewMemory) {
#ifndef __GLIBC__
  GTEST_SKIP() << "glibc's allocator is meant";
#else
  keep_freed_memory();
  const auto new_tensor = [](std::int64_t kilobytes) {
    at::Tensor tensor = at::empty({kilobytes << 10}, at::kByte);
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(tensor.data_ptr()) % 64, 0U);
    return tensor;
  };
  // As a layer makes and drops them; the rows of segments differ a little.
  const auto run_layers = [&](std::int64_t num_rows) {
    at::Tensor x = new_tensor(num_rows);
    for (int layer = 0; layer < 30; ++layer) {
      at::Tensor heads = new_tensor(2 * num_rows);
      heads = new_tensor(2 * num_rows);
      const at::Tensor attended = new_tensor(num_rows);
      heads.reset();
      at::Tensor wide = new_tensor(6 * num_rows);
      wide = new_tensor(3 * num_rows);
      x = new_tensor(num_rows);
    }
  };
  constexpr std::int64_t num_rows = 2048, live_bytes = (6 + 3 + 1 + 1) * num_rows << 10;
  const auto before = static_cast<std::int64_t>(mallinfo2().arena);
  for (int segment = 0; segment < 20; ++segment) run_layers(num_rows + segment % 7);
  EXPECT_LT(static_cast<std::int64_t>(mallinfo2().arena) - before, live_bytes * 6 / 5);
#endif
}

TEST(Memory, MetersSeeTensors) {
  keep_freed_memory();
  const attention::AllocationMeter meter;
  at::Tensor tensor = at::empty({1000}, at::kByte);
  EXPECT_EQ(meter.live_bytes(), 1000);
  tensor.reset();
  EXPECT_EQ(meter.live_bytes(), 0);
  EXPECT_EQ(at::empty({0}, at::kByte).data_ptr(), nullptr);
  EXPECT_THROW(at::empty({std::int64_t{1} << 60}, at::kByte), std::exception);
}

TEST(Memory, CodeThatDoesNotRunIsGivenBack) {
  const std::span<const char> code = longest_code();
  if (code.size() < 32 << 20) GTEST_SKIP() << "no large library is loaded, or nobody tells";
  const auto touch = [&] {
    std::int64_t sum = 0;
    for (std::size_t i = 0; i < 32 << 20; i += 4096) sum += code[i];
    return sum;
  };
  const std::int64_t sum = touch();
  const std::int64_t before = test::status_bytes("RssFile");
  settle_memory();
  EXPECT_LT(test::status_bytes("RssFile"), before - (24 << 20));
  EXPECT_EQ(touch(), sum);
}

TEST(Memory, AvailableMemoryIsPlausible) {
  const auto available_bytes = available_memory_bytes();
  if (!available_bytes) GTEST_SKIP() << "this system does not tell";
  EXPECT_GT(*available_bytes, 16 << 20);
  EXPECT_LT(*available_bytes, std::int64_t{1} << 50);
}

}  // namespace
}  // namespace gsa::engine
