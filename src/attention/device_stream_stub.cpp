#include "attention/device_stream.h"
#include "core/error.h"

namespace gsa::attention {

CurrentStream::CurrentStream(at::Device device) {
  core::internal_error("this build has no CUDA, and a tensor lies on {}", device.str());
}

}  // namespace gsa::attention
