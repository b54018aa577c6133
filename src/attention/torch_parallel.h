#pragma once

#include <ATen/Parallel.h>

#include <cstdint>

#include "kernels/cpu/parallel.h"

namespace gsa::attention {

/// LibTorch's threads for the CPU kernels: the process has no others.
class TorchParallel final : public kernels::Parallel {
 public:
  int num_threads() const override { return at::get_num_threads(); }
  void run(int num_tasks, kernels::TaskRef task) override {
    at::parallel_for(0, num_tasks, 1, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) task(static_cast<int>(i));
    });
  }
};

}  // namespace gsa::attention
