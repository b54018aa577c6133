#pragma once

namespace gsa::engine {

/// Takes memory for tensors on the CPU from malloc, and aligns it itself: what posix_memalign cuts
/// off a block keeps the freed block too small for another tensor of its size, so that a process
/// which makes the same tensors over and over needs twice their memory. For a program to call when
/// it begins, before it makes a tensor.
void take_tensor_memory_from_malloc();

}  // namespace gsa::engine
