#include "core/file.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <istream>
#include <utility>

#include "core/error.h"

namespace gsa::core {
namespace {

/// Opens for reading whatever has bytes to read; `status` receives its kind and size.
Descriptor open_to_read(const std::filesystem::path& path, struct stat& status) {
  Descriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (file.get() < 0) {
    if (errno == ENOENT || errno == ENOTDIR) {
      input_error("file: {}: no such file; check the path", path.string());
    }
    resource_error("file: {}: cannot be opened: {}", path.string(), std::strerror(errno));
  }
  if (::fstat(file.get(), &status) != 0) {
    resource_error("file: {}: cannot be examined: {}", path.string(), std::strerror(errno));
  }
  if (S_ISDIR(status.st_mode)) {
    input_error("file: {}: is a directory; name a file in it", path.string());
  }
  return file;
}

/// Creates a new file with a name of its own beside `path`.
std::pair<int, std::filesystem::path> create_beside(const std::filesystem::path& path) {
  static std::atomic<unsigned> counter{0};
  for (;;) {
    std::filesystem::path name = path;
    name += fmt::format(".{}-{}.tmp", ::getpid(), counter++);
    const int fd = ::open(name.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (fd >= 0) return {fd, std::move(name)};
    // A name in use was left by a process that died with our id; take the next.
    if (errno != EEXIST) {
      resource_error("file: {}: cannot be created: {}", name.string(), std::strerror(errno));
    }
  }
}

bool write_all(int fd, std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t num_written = ::write(fd, bytes.data(), bytes.size());
    if (num_written < 0 && errno == EINTR) continue;
    if (num_written < 0) return false;
    bytes = bytes.subspan(static_cast<std::size_t>(num_written));
  }
  return true;
}

}  // namespace

Descriptor::~Descriptor() {
  if (fd_ >= 0) ::close(fd_);
}

MappedFile MappedFile::open(const std::filesystem::path& path) {
  struct stat status{};
  const Descriptor file = open_to_read(path, status);
  if (!S_ISREG(status.st_mode)) {
    input_error("file: {}: is no regular file, so it cannot be mapped; copy it to a file first",
                path.string());
  }
  const auto num_bytes = static_cast<std::size_t>(status.st_size);
  if (num_bytes == 0) return MappedFile({});  // mmap refuses an empty range

  void* address = ::mmap(nullptr, num_bytes, PROT_READ, MAP_PRIVATE, file.get(), 0);
  if (address == MAP_FAILED) {
    resource_error("file: {}: {} bytes cannot be mapped: {}", path.string(), num_bytes,
                   std::strerror(errno));
  }
  return MappedFile({static_cast<const std::byte*>(address), num_bytes});
}

MappedFile::MappedFile(MappedFile&& other) noexcept : bytes_(std::exchange(other.bytes_, {})) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(bytes_, other.bytes_);
  return *this;
}

MappedFile::~MappedFile() {
  if (!bytes_.empty()) ::munmap(const_cast<std::byte*>(bytes_.data()), bytes_.size());
}

std::optional<FileLock> FileLock::take(const std::filesystem::path& path) {
  for (;;) {
    // For writing, without which file systems of a network have no exclusive locks.
    Descriptor file(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666));
    if (file.get() < 0) return FileLock(std::move(file));
    if (::flock(file.get(), LOCK_EX | LOCK_NB) != 0) {
      if (errno == EWOULDBLOCK) return std::nullopt;
      return FileLock(std::move(file));
    }
    struct stat locked{}, named{};
    const bool is_there = ::fstat(file.get(), &locked) == 0 && ::stat(path.c_str(), &named) == 0;
    if (is_there && locked.st_dev == named.st_dev && locked.st_ino == named.st_ino)
      return FileLock(std::move(file));
    // Another file was renamed to the path, or this one removed, before it was locked.
  }
}

void leave_on_disk(std::span<const std::byte> bytes) {
  const auto page = static_cast<std::uintptr_t>(::sysconf(_SC_PAGESIZE));
  const auto address = reinterpret_cast<std::uintptr_t>(bytes.data());
  const std::uintptr_t begin = (address + page - 1) / page * page;
  const std::uintptr_t end = (address + bytes.size()) / page * page;
  if (begin >= end) return;
  auto* const pages = reinterpret_cast<void*>(begin);
  // Without the first, whoever reads a neighbour brings pages around it back. Both are advice.
  (void)::madvise(pages, end - begin, MADV_RANDOM);
  (void)::madvise(pages, end - begin, MADV_DONTNEED);
}

std::string read_file(const std::filesystem::path& path) {
  struct stat status{};
  const Descriptor file = open_to_read(path, status);
  std::string text;
  if (S_ISREG(status.st_mode)) text.reserve(static_cast<std::size_t>(status.st_size));

  std::array<char, 1 << 16> buffer;
  for (;;) {
    const ssize_t num_read = ::read(file.get(), buffer.data(), buffer.size());
    if (num_read < 0 && errno == EINTR) continue;
    if (num_read < 0) {
      resource_error("file: {}: reading failed: {}", path.string(), std::strerror(errno));
    }
    if (num_read == 0) return text;
    text.append(buffer.data(), static_cast<std::size_t>(num_read));
  }
}

std::string read_stream(std::istream& stream, std::string_view what) {
  std::string text;
  std::array<char, 1 << 16> buffer;
  while (stream.read(buffer.data(), buffer.size()) || stream.gcount() > 0) {
    text.append(buffer.data(), static_cast<std::size_t>(stream.gcount()));
  }
  if (stream.bad()) resource_error("file: {}: reading failed", what);
  return text;
}

void write_file_atomic(const std::filesystem::path& path, std::string_view bytes) {
  const std::array parts{std::as_bytes(std::span(bytes))};
  write_file_atomic(path, parts);
}

void write_file_atomic(const std::filesystem::path& path,
                       std::span<const std::span<const std::byte>> parts) {
  std::error_code ignored;
  const auto kind = std::filesystem::status(path, ignored).type();
  if (kind != std::filesystem::file_type::not_found &&
      kind != std::filesystem::file_type::regular) {
    input_error("file: {}: is no regular file and will not be replaced; choose another name",
                path.string());
  }
  auto [fd, name_beside] = create_beside(path);
  Descriptor file(fd);
  bool is_written = true;
  for (const auto part : parts) is_written = is_written && write_all(file.get(), part);
  is_written = is_written && ::fsync(file.get()) == 0;
  is_written = ::close(file.release()) == 0 && is_written;
  if (is_written && ::rename(name_beside.c_str(), path.c_str()) == 0) return;

  const int error = errno;
  ::unlink(name_beside.c_str());
  resource_error("file: {}: writing failed: {}", path.string(), std::strerror(error));
}

}  // namespace gsa::core
