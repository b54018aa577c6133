#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

#include "core/quant.h"
#include "core/rng.h"

namespace gsa::kernels::test {

/// Values of normal size as they lie in memory, and what they are.
struct Values {
  std::vector<std::byte> stored;  // as many bytes as the values need, so that a sanitizer sees more
  std::vector<float> exact;
};

inline Values random_values(core::Rng& rng, core::DataType type, std::int64_t count) {
  Values values;
  const std::int64_t bytes = core::block_bytes(type);
  values.stored.resize(count * bytes);
  values.exact.resize(count);
  for (std::int64_t i = 0; i < count; ++i) {
    const float value = 4 * rng.uniform() - 2;
    std::uint32_t bits = 0;
    std::memcpy(&bits, &value, sizeof(bits));
    if (type == core::DataType::bf16) bits >>= 16;
    if (type == core::DataType::f16) {
      bits = rng.below(2) << 15 | (10 + rng.below(6)) << 10 | rng.below(1024);
      if (rng.below(16) == 0) bits &= 0x83FF;  // subnormal
    }
    std::memcpy(values.stored.data() + i * bytes, &bits, bytes);
  }
  core::dequantize(type, values.stored, values.exact);
  return values;
}

}  // namespace gsa::kernels::test
