#pragma once

#include <stdexcept>
#include <string>

namespace gsa::kernels {

inline void check(cudaError_t status, const char* what) {
  if (status != cudaSuccess)
    throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(status));
}

/// Starts a kernel and throws if it could not start; `what` begins the message.
template <typename Kernel, typename... Args>
void launch(const char* what, Kernel kernel, dim3 grid, int threads, std::size_t shared_bytes,
            void* stream, Args... args) {
  if (grid.x == 0 || grid.y == 0) return;
  if (shared_bytes > 32 * 1024) {  // with the kernel's own arrays it may exceed the usual 48 KiB
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                               static_cast<int>(shared_bytes)),
          what);
  }
  kernel<<<grid, threads, shared_bytes, static_cast<cudaStream_t>(stream)>>>(args...);
  check(cudaGetLastError(), what);
}

}  // namespace gsa::kernels
