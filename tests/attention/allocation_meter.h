#pragma once

#include <c10/core/Allocator.h>
#include <c10/util/ThreadLocalDebugInfo.h>

#include <algorithm>
#include <cstdint>
#include <memory>

namespace gsa::attention {

/// Bytes of tensors that this thread allocates on the CPU while the object lives. Blocks from
/// before do not count, neither when they are freed.
class AllocationMeter {
 public:
  std::int64_t live_bytes() const { return report_->live_bytes; }
  std::int64_t peak_bytes() const { return report_->peak_bytes; }
  std::int64_t num_allocations() const { return report_->num_allocations; }

 private:
  struct Report final : c10::MemoryReportingInfoBase {
    void reportMemoryUsage(void*, std::int64_t alloc_size, std::size_t, std::size_t,
                           c10::Device) override {
      live_bytes += alloc_size;
      peak_bytes = std::max(peak_bytes, live_bytes);
      num_allocations += alloc_size > 0 ? 1 : 0;
    }
    bool memoryProfilingEnabled() const override { return true; }

    std::int64_t live_bytes = 0, peak_bytes = 0, num_allocations = 0;
  };

  std::shared_ptr<Report> report_ = std::make_shared<Report>();
  c10::DebugInfoGuard guard_{c10::DebugInfoKind::PROFILER_STATE, report_};
};

}  // namespace gsa::attention
