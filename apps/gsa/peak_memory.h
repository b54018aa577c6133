#pragma once

#include <c10/core/Device.h>

#include <cstdint>

namespace gsa::apps {

/// The most memory in use since it was made: what a GPU's tensors hold, or the size of the process.
class PeakMemory {
 public:
  explicit PeakMemory(at::Device device);

  std::int64_t bytes() const;

 private:
  at::Device device_;
};

}  // namespace gsa::apps
