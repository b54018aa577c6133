#include "engine/tensor_memory.h"

#include <c10/core/Allocator.h>
#include <c10/core/CPUAllocator.h>
#include <c10/core/alignment.h>

#include <cstdint>
#include <cstdlib>
#include <limits>
#include <new>

namespace gsa::engine {
namespace {

constexpr std::size_t kAlignment = c10::gAlignment;

/// Blocks of malloc with the alignment of LibTorch; the block's address stands before the data.
class MallocAllocator final : public c10::Allocator {
 public:
  c10::DataPtr allocate(std::size_t num_bytes) override {
    const at::Device cpu(at::kCPU);
    if (num_bytes == 0) return {nullptr, cpu};
    constexpr std::size_t most = std::numeric_limits<std::size_t>::max() - kAlignment;
    void* const block = num_bytes > most ? nullptr : std::malloc(num_bytes + kAlignment);
    if (block == nullptr) throw std::bad_alloc();
    // malloc aligns to two pointers at least, so one lies between the block's begin and the data.
    const auto begin = reinterpret_cast<std::uintptr_t>(block);
    void* const data = reinterpret_cast<void*>(begin / kAlignment * kAlignment + kAlignment);
    static_cast<void**>(data)[-1] = block;
    c10::profiledCPUMemoryReporter().New(data, num_bytes);
    return {data, data, free_data, cpu};
  }

  c10::DeleterFnPtr raw_deleter() const override { return free_data; }

  void copy_data(void* to, const void* from, std::size_t num_bytes) const override {
    default_copy_data(to, from, num_bytes);
  }

 private:
  static void free_data(void* data) {
    if (data == nullptr) return;
    c10::profiledCPUMemoryReporter().Delete(data);
    std::free(static_cast<void**>(data)[-1]);
  }
};

}  // namespace

void take_tensor_memory_from_malloc() {
  static MallocAllocator allocator;
  c10::SetCPUAllocator(&allocator, /*priority=*/1);
}

}  // namespace gsa::engine
