#include "peak_memory.h"

#include <c10/core/CachingDeviceAllocator.h>

#include "engine/memory.h"

namespace gsa::apps {

PeakMemory::PeakMemory(at::Device device) : device_(device) {
  if (device.is_cpu()) {
    engine::reset_peak_memory();
    return;
  }
  auto* allocator = at::getDeviceAllocator(device.type());
  allocator->emptyCache();
  allocator->resetPeakStats(device.index());
}

std::int64_t PeakMemory::bytes() const { return engine::peak_memory_bytes(device_); }

}  // namespace gsa::apps
