#pragma once

#include <c10/core/Device.h>

#include <cstdint>
#include <optional>

namespace gsa::engine {

/// Largest resident size of this process in bytes (VmHWM), since it began or since
/// `reset_peak_memory`. 0 where the system does not tell.
std::int64_t peak_memory_bytes();
/// The same for the CPU; of a GPU, the most bytes that tensors have held on it.
std::int64_t peak_memory_bytes(at::Device device);

/// Lets freed memory stay with the process, for a program to call when it begins: every layer of a
/// forward makes tensors of some megabytes and drops them, and new pages from the system would take
/// a third of the time of reading a context. Tensors come from malloc from then on (see
/// `take_tensor_memory_from_malloc`).
void keep_freed_memory();
/// Gives memory that is free back to the system. Does nothing without glibc.
void return_freed_memory();
/// For a program that has loaded its model, which needs more than what it leaves: gives free memory
/// back, and takes code that has run out of the process's account (it stays in the system's cache
/// of files, and comes back when it runs). Before other threads work.
void settle_memory();

/// Gives memory that is free back to the system and lets `peak_memory_bytes` start again from the
/// present size. False where the system does not allow it.
bool reset_peak_memory();

/// Bytes that can be allocated without swapping, limits of a container included; nothing where the
/// system does not tell.
std::optional<std::int64_t> available_memory_bytes();

}  // namespace gsa::engine
