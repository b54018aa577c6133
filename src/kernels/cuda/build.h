#pragma once

namespace gsa::kernels {

/// Whether this build has the CUDA kernels and a GPU runs them (compute capability 8.0 or newer).
/// Otherwise every one throws.
bool has_cuda_kernels(int device);

}  // namespace gsa::kernels
