#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace gsa::text {

/// SHA-256 (FIPS 180-4) of bytes that come in pieces.
class Sha256 {
 public:
  void update(std::string_view bytes);
  /// Appends a number as four bytes, the least significant first.
  void update_u32(std::uint32_t value);
  /// The digest as 64 hexadecimal digits; the object must not be used afterwards.
  std::string finish();

 private:
  void process_block(const unsigned char* block);

  std::array<std::uint32_t, 8> state_ = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                         0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  std::array<unsigned char, 64> block_ = {};
  std::size_t block_len_ = 0;
  std::uint64_t num_bytes_ = 0;
};

}  // namespace gsa::text
