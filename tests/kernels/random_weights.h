#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <random>
#include <vector>

#include "core/quant.h"
#include "kernels/cpu/isa.h"
#include "kernels/cpu/parallel.h"

namespace gsa::kernels::test {

using core::DataType;

inline constexpr DataType kAllTypes[] = {
    DataType::f32,  DataType::f16,  DataType::bf16, DataType::q8_0, DataType::q4_0, DataType::q4_1,
    DataType::q5_0, DataType::q5_1, DataType::q4_k, DataType::q5_k, DataType::q6_k};

/// The sets that this machine runs.
inline std::vector<Isa> supported_isas() {
  std::vector<Isa> isas;
  for (int i = 0; i < kNumIsas; ++i) {
    if (supported(static_cast<Isa>(i))) isas.push_back(static_cast<Isa>(i));
  }
  return isas;
}

/// Where the f16 fields of a block lie, -1: there is none.
struct F16Fields {
  int first, second;
};
inline F16Fields f16_fields(DataType type) {
  switch (type) {
    case DataType::q8_0:
    case DataType::q4_0:
    case DataType::q5_0:
      return {0, -1};
    case DataType::q4_1:
    case DataType::q5_1:
    case DataType::q4_k:
    case DataType::q5_k:
      return {0, 2};
    case DataType::q6_k:
      return {208, -1};
    default:
      return {-1, -1};
  }
}

/// An f16 of a few typical magnitudes; one of eight is 0, subnormal or of the largest numbers.
inline std::uint16_t random_f16(std::mt19937& rng) {
  const auto sign = static_cast<std::uint16_t>((rng() & 1) << 15);
  const auto mantissa = static_cast<std::uint16_t>(rng() & 0x3FF);
  switch (rng() % 24) {
    case 0:
      return sign;
    case 1:
      return sign | mantissa;
    case 2:
      return sign | 0x7800 | mantissa;
    default:
      return sign | static_cast<std::uint16_t>((8 + rng() % 8) << 10) | mantissa;
  }
}

/// Every bit of the codes random, the factors finite.
inline std::vector<std::byte> random_blocks(DataType type, std::int64_t num_values,
                                            std::mt19937& rng) {
  const std::int64_t bytes = core::block_bytes(type);
  std::vector<std::byte> data(static_cast<std::size_t>(core::data_bytes(type, num_values)));
  for (std::byte& byte : data) byte = static_cast<std::byte>(rng());
  const auto put = [&](std::int64_t at, const auto& value) {
    std::memcpy(data.data() + at, &value, sizeof value);
  };
  std::normal_distribution<float> normal;
  const auto [first, second] = f16_fields(type);
  for (std::int64_t b = 0; b < std::ssize(data); b += bytes) {
    if (first >= 0) put(b + first, random_f16(rng));
    if (second >= 0) put(b + second, random_f16(rng));
    if (type == DataType::f32) put(b, normal(rng));
    if (type == DataType::f16) put(b, random_f16(rng));
    if (type == DataType::bf16)
      put(b, static_cast<std::uint16_t>(std::bit_cast<std::uint32_t>(normal(rng)) >> 16));
  }
  return data;
}

/// Runs tasks on the calling thread, the last one first, as if there were `n` threads.
class Backwards final : public Parallel {
 public:
  explicit Backwards(int n) : num_threads_(n) {}
  int num_threads() const override { return num_threads_; }
  void run(int num_tasks, TaskRef task) override {
    for (int i = num_tasks - 1; i >= 0; --i) task(i);
  }

 private:
  int num_threads_;
};

}  // namespace gsa::kernels::test
