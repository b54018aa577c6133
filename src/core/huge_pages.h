#pragma once

#include <cstddef>

namespace gsa::core {

/// Size of a huge page where they are usual.
inline constexpr std::size_t kHugePageBytes = std::size_t{1} << 21;

/// Memory of `bytes` bytes, zeros, whose whole huge pages the system is asked to make so: what is
/// read by many short runs then misses the translation of addresses hundreds of times less often.
/// It comes from the system and goes back to it, so that it leaves no holes between smaller blocks.
/// Resource error if there is no memory. Free with `free_huge_pages`.
void* allocate_huge_pages(std::size_t bytes);
/// `bytes` as they were asked for.
void free_huge_pages(void* memory, std::size_t bytes);

}  // namespace gsa::core
