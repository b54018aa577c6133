#pragma once

#include <cstdint>

namespace gsa::core {

/// PCG32 (O'Neill 2014, pcg-random.org): small, and the same numbers on every machine and compiler,
/// which the distributions of the standard library do not promise.
class Rng {
 public:
  /// Generators with different `stream` numbers are independent under the same seed.
  explicit Rng(std::uint64_t seed, std::uint64_t stream = 0) : increment_((stream << 1) | 1) {
    next();
    state_ += seed;
    next();
  }

  /// 32 uniform bits.
  std::uint32_t next() {
    const std::uint64_t old_state = state_;
    state_ = old_state * 6364136223846793005ULL + increment_;
    const auto xor_shifted = static_cast<std::uint32_t>(((old_state >> 18) ^ old_state) >> 27);
    const auto rotation = static_cast<std::uint32_t>(old_state >> 59);
    return (xor_shifted >> rotation) | (xor_shifted << ((32 - rotation) & 31));
  }

  /// Uniform in [0, 1), a multiple of 2^-24: every value is exact in f32.
  float uniform() { return static_cast<float>(next() >> 8) * 0x1p-24F; }

  /// Uniform in [0, n), without bias; n > 0.
  std::uint32_t below(std::uint32_t n) {
    const std::uint32_t num_rejected = (0U - n) % n;  // 2^32 mod n
    std::uint32_t value = next();
    while (value < num_rejected) value = next();
    return value % n;
  }

 private:
  std::uint64_t state_ = 0;
  std::uint64_t increment_;
};

}  // namespace gsa::core
