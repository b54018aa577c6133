#include <ATen/Parallel.h>
#include <ATen/ops/randn.h>
#include <gtest/gtest.h>

#include <atomic>
#include <cstdlib>
#include <new>

#include "ATen/CPUGeneratorImpl.h"
#include "attention/allocation_meter.h"
#include "attention/step_attention.h"

namespace {
std::atomic<std::int64_t> num_news = 0;  // of the whole program, whatever the thread
}

// Not inlined: the compiler would see malloc and free where it expects operators.
[[gnu::noinline]] void* operator new(std::size_t size) {
  ++num_news;
  void* memory = std::malloc(size > 0 ? size : 1);
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}
[[gnu::noinline]] void* operator new[](std::size_t size) { return operator new(size); }
[[gnu::noinline]] void operator delete(void* memory) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete[](void* memory) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete[](void* memory, std::size_t) noexcept { std::free(memory); }

namespace gsa::attention {
namespace {

constexpr std::int64_t kNumLayers = 3, kNumKvHeads = 3, kNumHeads = 9, kHeadDim = 64;
constexpr std::int64_t kNumRaw = 3000, kNumWarm = 4, kNumSteps = 64;

void fill(KvStore& store, const Layout& layout) {
  for (int level = kRawLevel; level < store.shape().num_levels; ++level) {
    const std::int64_t count = level == kRawLevel ? layout.num_raw() : layout.num_nodes(level);
    for (std::int64_t layer = 0; layer < kNumLayers && count > 0; ++layer) {
      store.append(layer, level, at::randn({count, kNumKvHeads, kHeadDim}),
                   at::randn({count, kNumKvHeads, kHeadDim}));
    }
  }
}

TEST(StepAttention, AllocatesNothingWhileTheStoreHasRoom) {
  at::set_num_threads(2);
  at::manual_seed(1);
  for (const char* text :
       {"full", "streaming:tokens=64", "gist-only@16", "gsa@8", "gsa@16:mode=group", "gsa@4-4",
        "gsa@16-4:tokens=256", "gsa@4-4:top_p=0.5", "gsa@8:top_p=0.3", "gsa@16:gists=all",
        "gsa@8:route=both", "meanpool@8", "meanpool@16:tokens=256"}) {
    const auto policy = make_policy(PolicySpec::parse(text));
    Layout layout(policy->spec().layout);
    layout.append(std::vector<std::uint8_t>(kNumRaw, 1));
    layout.end_piece();
    const int num_levels = policy->uses_gists() ? layout.num_levels() : 0;
    KvStore reading({kNumLayers, kNumKvHeads, kHeadDim, num_levels, at::kBFloat16});
    fill(reading, layout);
    KvStore store = reading.fork();
    store.reserve(kRawLevel, kNumWarm + kNumSteps);
    const auto step = StepAttention::make(*policy, store, layout, kNumHeads, 0.125);
    ASSERT_NE(step, nullptr) << text;
    const at::Tensor rows = at::randn({kNumWarm + kNumSteps, kNumHeads, 3, kHeadDim});
    std::vector<float> out(kNumHeads * kHeadDim);
    ReadMeter meter;
    const auto run = [&](std::int64_t i) {
      const float* row = rows.const_data_ptr<float>() + i * kNumHeads * 3 * kHeadDim;
      step->begin(kNumRaw + i, &meter);
      for (std::int64_t layer = 0; layer < kNumLayers; ++layer) {
        (*step)(layer, row, row + kNumHeads * kHeadDim, row + 2 * kNumHeads * kHeadDim, out.data());
      }
    };
    for (std::int64_t i = 0; i < kNumWarm; ++i) run(i);
    const AllocationMeter tensors;
    const std::int64_t before = num_news;
    for (std::int64_t i = 0; i < kNumSteps; ++i) run(kNumWarm + i);
    EXPECT_EQ(num_news - before, 0) << text;
    EXPECT_EQ(tensors.num_allocations(), 0) << text;
  }
}

}  // namespace
}  // namespace gsa::attention
