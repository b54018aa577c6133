#pragma once

#include <cstddef>
#include <filesystem>
#include <iosfwd>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>

namespace gsa::core {

/// A regular file mapped read-only; move-only, unmapped at the end of its life. Shortening the file
/// while it is mapped is undefined (SIGBUS), as with every mapping.
class MappedFile {
 public:
  /// Input error if the path is missing or no regular file, resource error if it cannot be read.
  static MappedFile open(const std::filesystem::path& path);

  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  ~MappedFile();

  /// The whole file; empty for an empty file.
  std::span<const std::byte> bytes() const { return bytes_; }

 private:
  explicit MappedFile(std::span<const std::byte> bytes) : bytes_(bytes) {}

  std::span<const std::byte> bytes_;
};

/// Owns a file descriptor, or none (-1); move-only, closed at the end of its life.
class Descriptor {
 public:
  explicit Descriptor(int fd) : fd_(fd) {}
  Descriptor(Descriptor&& other) noexcept : fd_(other.release()) {}
  Descriptor& operator=(Descriptor&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  ~Descriptor();

  int get() const { return fd_; }
  int release() { return std::exchange(fd_, -1); }

 private:
  int fd_;
};

/// Keeps other holders of such a lock away from a file (flock) for as long as this object and the
/// process live. It is on the file that the path names now: one that is renamed to the path later
/// needs a lock of its own, best taken while the old one is still held.
class FileLock {
 public:
  /// Nothing while another holds it. An empty file is made if there is none. What cannot be opened
  /// or locked (no right to write, a file system without locks) gives a lock that keeps nobody
  /// away.
  static std::optional<FileLock> take(const std::filesystem::path& path);

 private:
  explicit FileLock(Descriptor file) : file_(std::move(file)) {}

  Descriptor file_;
};

/// Takes the pages that lie wholly in `bytes`, a part of a mapped file, out of memory's account:
/// for what is hardly read again. It stays readable.
void leave_on_disk(std::span<const std::byte> bytes);

/// Reads a whole regular file or pipe. Input error if the path is missing or a directory, resource
/// error if reading fails.
std::string read_file(const std::filesystem::path& path);

/// Reads a stream (standard input) to its end. `what` names it in the error.
std::string read_stream(std::istream& stream, std::string_view what);

/// Writes beside `path`, syncs and renames, so that a reader sees the old or the new file and
/// nothing between. Resource error if that fails; the part written is removed.
void write_file_atomic(const std::filesystem::path& path, std::string_view bytes);

/// The same for bytes that lie in several places; they are written one after the other.
void write_file_atomic(const std::filesystem::path& path,
                       std::span<const std::span<const std::byte>> parts);

}  // namespace gsa::core
