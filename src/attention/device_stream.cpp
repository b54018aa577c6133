#include "attention/device_stream.h"

#include <c10/cuda/CUDAStream.h>

namespace gsa::attention {

void* current_stream(at::Device device) {
  return c10::cuda::getCurrentCUDAStream(device.index()).stream();
}

}  // namespace gsa::attention
