#pragma once

namespace gsa::kernels {

/// Whether this build has the CUDA kernels. Without them every one throws.
bool has_cuda_kernels();

}  // namespace gsa::kernels
