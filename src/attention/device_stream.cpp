#include "attention/device_stream.h"

#include <c10/cuda/CUDAStream.h>

namespace gsa::attention {

CurrentStream::CurrentStream(at::Device device)
    : guard_(device), stream_(c10::cuda::getCurrentCUDAStream(device.index()).stream()) {}

}  // namespace gsa::attention
