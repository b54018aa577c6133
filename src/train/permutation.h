#pragma once

#include <bit>
#include <cstdint>

namespace gsa::train {

/// Mixes a number with a seed (splitmix64's finaliser): neighbours become unrelated.
inline std::uint64_t mix(std::uint64_t seed, std::uint64_t value) {
  std::uint64_t z = seed + 0x9E3779B97F4A7C15ULL * (value + 1);
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ULL;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBULL;
  return z ^ (z >> 31);
}

/// A shuffled order of [0, size) without a table: a Feistel network over the next power of four,
/// repeated until the value falls into the range. The same on every machine.
class Permutation {
 public:
  Permutation(std::int64_t size, std::uint64_t key)
      : size_(static_cast<std::uint64_t>(size)), key_(key) {
    const int bits = std::bit_width(size_ > 1 ? size_ - 1 : 1);
    half_bits_ = (bits + 1) / 2;
  }

  /// The number at place `idx`, both in [0, size).
  std::int64_t operator()(std::int64_t idx) const {
    auto value = static_cast<std::uint64_t>(idx);
    do {
      value = encipher(value);
    } while (value >= size_);
    return static_cast<std::int64_t>(value);
  }

 private:
  static constexpr std::uint64_t kNumRounds = 6;

  std::uint64_t encipher(std::uint64_t value) const {
    const std::uint64_t mask = (std::uint64_t{1} << half_bits_) - 1;
    std::uint64_t left = value >> half_bits_, right = value & mask;
    for (std::uint64_t round = 0; round < kNumRounds; ++round) {
      const std::uint64_t next = left ^ (mix(key_ + round, right) & mask);
      left = right;
      right = next;
    }
    return (left << half_bits_) | right;
  }

  std::uint64_t size_;
  std::uint64_t key_;
  int half_bits_;
};

}  // namespace gsa::train
