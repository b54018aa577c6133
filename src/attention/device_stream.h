#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/DeviceGuard.h>

#include "kernels/cuda/build.h"

namespace gsa::attention {

/// Whether kernels of ours take a tensor: bf16, on a GPU that they are built for.
inline bool kernels_take(const at::Tensor& x) {
  return x.is_cuda() && x.scalar_type() == at::kBFloat16 &&
         kernels::has_cuda_kernels(x.get_device());
}

/// The cudaStream_t on which LibTorch runs operations of the calling thread. Its GPU is the current
/// one as long as this lives, which a launch needs: make it in the call that launches.
class CurrentStream {
 public:
  explicit CurrentStream(at::Device device);
  operator void*() const { return stream_; }

 private:
  c10::OptionalDeviceGuard guard_;
  void* stream_ = nullptr;
};

}  // namespace gsa::attention
