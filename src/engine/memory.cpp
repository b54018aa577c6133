#include "engine/memory.h"

#include <c10/core/CachingDeviceAllocator.h>
#include <malloc.h>
#include <sys/mman.h>

#include <algorithm>
#include <cinttypes>
#include <cstdio>
#include <fstream>
#include <sstream>
#include <string>

#include "engine/tensor_memory.h"

namespace gsa::engine {
namespace {

/// The number behind `key:` in a file of /proc, in bytes (it is given in kB).
std::optional<std::int64_t> read_proc_kb(const char* path, const std::string& key) {
  std::ifstream file(path);
  std::string word;
  while (file >> word) {
    std::int64_t kilobytes = 0;
    if (word == key + ":" && file >> kilobytes) return kilobytes * 1024;
  }
  return std::nullopt;
}

/// The first word of a file as a number; nothing for "max", which stands for no limit.
std::optional<std::int64_t> read_number(const char* path) {
  std::ifstream file(path);
  std::int64_t number = 0;
  if (file >> number) return number;
  return std::nullopt;
}

/// What the control group of this process may still take (version 2, seen from inside a container).
std::optional<std::int64_t> available_in_container() {
  const auto limit = read_number("/sys/fs/cgroup/memory.max");
  const auto used = read_number("/sys/fs/cgroup/memory.current");
  if (!limit || !used) return std::nullopt;
  // Cached files count as used but are given back on demand.
  std::int64_t cached = 0, number = 0;
  std::ifstream file("/sys/fs/cgroup/memory.stat");
  for (std::string word; file >> word >> number;) {
    if (word == "inactive_file" || word == "active_file") cached += number;
  }
  return std::max<std::int64_t>(0, *limit - *used + cached);
}

/// Takes pages of programs' code out of this process's account, those of its libraries above all;
/// they come back from the system's cache of files when they run. To start LibTorch reads four
/// times as many pages as what follows. Mappings with pages of their own (code that was changed
/// after it was loaded, by a debugger for instance) would lose them and are left alone.
void release_code_pages() {
#ifdef __linux__
  std::ifstream mappings("/proc/self/smaps");
  std::uintptr_t begin = 0, end = 0;
  bool is_code = false;
  for (std::string line; std::getline(mappings, line);) {
    std::istringstream words(line);
    std::string first, permissions, offset, device, inode, path;
    words >> first;
    if (first == "Anonymous:") {
      std::int64_t own_kb = -1;
      words >> own_kb;
      if (is_code && own_kb == 0)
        (void)madvise(reinterpret_cast<void*>(begin), end - begin, MADV_DONTNEED);
    } else if (!first.ends_with(':')) {  // begin-end, the first line of a mapping
      words >> permissions >> offset >> device >> inode >> path;
      is_code = permissions == "r-xp" && path.starts_with('/') &&
                std::sscanf(first.c_str(), "%" SCNxPTR "-%" SCNxPTR, &begin, &end) == 2;
    }
  }
#endif
}

}  // namespace

std::int64_t peak_memory_bytes() { return read_proc_kb("/proc/self/status", "VmHWM").value_or(0); }

std::int64_t peak_memory_bytes(at::Device device) {
  if (device.is_cpu()) return peak_memory_bytes();
  const auto stats = at::getDeviceAllocator(device.type())->getDeviceStats(device.index());
  return stats.allocated_bytes[0].peak;  // [0]: of all pools
}

void keep_freed_memory() {
  take_tensor_memory_from_malloc();
#ifdef __GLIBC__
  // 32 MB is the most that every version takes. A threshold that is set no longer adapts itself, so
  // both are set or none.
  if (mallopt(M_MMAP_THRESHOLD, 32 << 20) != 0) mallopt(M_TRIM_THRESHOLD, 256 << 20);
#endif
}

void return_freed_memory() {
#ifdef __GLIBC__
  malloc_trim(0);
#endif
}

void settle_memory() {
  return_freed_memory();
  release_code_pages();
}

bool reset_peak_memory() {
  return_freed_memory();
  std::ofstream file("/proc/self/clear_refs");
  file << "5";  // proc(5): resets the peak resident size
  file.close();
  return file.good();
}

std::optional<std::int64_t> available_memory_bytes() {
  const auto machine = read_proc_kb("/proc/meminfo", "MemAvailable");
  const auto container = available_in_container();
  if (machine && container) return std::min(*machine, *container);
  return machine ? machine : container;
}

}  // namespace gsa::engine
