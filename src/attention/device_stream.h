#pragma once

#include <c10/core/Device.h>

namespace gsa::attention {

/// The cudaStream_t on which LibTorch runs operations of the calling thread.
void* current_stream(at::Device device);

}  // namespace gsa::attention
