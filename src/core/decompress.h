#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string_view>

namespace gsa::core {

/// Compressions of text files that are unpacked on the way.
enum class Compression { none, gzip, xz, zstd };

/// Which one a file has, by its first bytes. Input error if its name ends in .gz, .xz or .zst and
/// its content is another; `what` (usually the path) begins the message.
Compression find_compression(std::span<const std::byte> bytes, std::string_view what);

/// What a file holds once unpacked, piece after piece. Memory does not grow with the file.
class ByteSource {
 public:
  virtual ~ByteSource() = default;

  /// Fills the buffer as far as it can; the number of bytes, 0 at the end. Input error for data
  /// that are damaged or cut off.
  virtual std::size_t read(std::span<char> buffer) = 0;
  /// Bytes of the file that were used so far, for a progress bar.
  virtual std::size_t num_consumed() const = 0;
};

/// `bytes` (the file as it lies on the disk) must outlive the source.
std::unique_ptr<ByteSource> open_source(std::span<const std::byte> bytes, std::string_view what);

}  // namespace gsa::core
