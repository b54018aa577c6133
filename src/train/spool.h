#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <vector>

namespace gsa::train {

/// Bytes that are collected on the disk because they may not fit into memory. The file has no name,
/// so nothing is left of it however the program ends.
class Spool {
 public:
  /// In the folder of `beside`, which will receive what is made of it. Resource error if that
  /// fails.
  explicit Spool(const std::filesystem::path& beside);
  ~Spool();
  Spool(const Spool&) = delete;
  Spool& operator=(const Spool&) = delete;

  /// Resource error if the disk is full.
  void append(std::span<const std::byte> bytes);
  std::uint64_t num_bytes() const { return num_bytes_; }

  /// Everything appended so far, mapped; valid until the next call of `append` or `map`.
  std::span<const std::byte> map();

 private:
  void flush();
  void unmap();

  std::filesystem::path beside_;
  int fd_ = -1;
  std::vector<std::byte> buffer_;
  std::uint64_t num_bytes_ = 0;
  std::span<const std::byte> mapped_;
};

}  // namespace gsa::train
