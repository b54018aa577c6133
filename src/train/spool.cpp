#include "train/spool.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "core/error.h"

namespace gsa::train {
namespace {

constexpr std::size_t kBufferBytes = std::size_t{1} << 20;

[[noreturn]] void fail(const std::filesystem::path& beside, const char* what) {
  core::resource_error("shard: {}: {} beside it failed: {}; free space or choose another folder",
                       beside.string(), what, std::strerror(errno));
}

}  // namespace

Spool::Spool(const std::filesystem::path& beside) : beside_(beside) {
  std::string name = beside.string() + ".spool-XXXXXX";
  fd_ = ::mkostemp(name.data(), O_CLOEXEC);
  if (fd_ < 0) fail(beside_, "making a temporary file");
  ::unlink(name.c_str());
  buffer_.reserve(kBufferBytes);
}

Spool::~Spool() {
  unmap();
  ::close(fd_);
}

void Spool::append(std::span<const std::byte> bytes) {
  unmap();
  buffer_.insert(buffer_.end(), bytes.begin(), bytes.end());
  num_bytes_ += bytes.size();
  if (buffer_.size() >= kBufferBytes) flush();
}

void Spool::flush() {
  std::span<const std::byte> rest = buffer_;
  while (!rest.empty()) {
    const ssize_t num_written = ::write(fd_, rest.data(), rest.size());
    if (num_written < 0 && errno == EINTR) continue;
    if (num_written < 0) fail(beside_, "writing a temporary file");
    rest = rest.subspan(static_cast<std::size_t>(num_written));
  }
  buffer_.clear();
}

std::span<const std::byte> Spool::map() {
  unmap();
  flush();
  if (num_bytes_ == 0) return {};
  void* address = ::mmap(nullptr, num_bytes_, PROT_READ, MAP_PRIVATE, fd_, 0);
  if (address == MAP_FAILED) fail(beside_, "mapping a temporary file");
  mapped_ = {static_cast<const std::byte*>(address), num_bytes_};
  return mapped_;
}

void Spool::unmap() {
  if (!mapped_.empty()) ::munmap(const_cast<std::byte*>(mapped_.data()), mapped_.size());
  mapped_ = {};
}

}  // namespace gsa::train
