#pragma once

#include <cstdint>
#include <fstream>
#include <string>

namespace gsa::test {

/// A line of /proc/self/status (`RssFile`, `RssAnon`, `VmSize`) in bytes; 0 where there is none.
inline std::int64_t status_bytes(const std::string& key) {
  std::ifstream file("/proc/self/status");
  for (std::string word; file >> word;) {
    std::int64_t kilobytes = 0;
    if (word == key + ":" && file >> kilobytes) return kilobytes * 1024;
  }
  return 0;
}

}  // namespace gsa::test
