#include "core/quant.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

#include "core/file.h"
#include "support/errors.h"
#include "support/python.h"
#include "support/temp_dir.h"

namespace gsa::core {
namespace {

using test::error_of;
using test::IsError;

constexpr DataType all_types[] = {DataType::f32,  DataType::f16,  DataType::bf16, DataType::q8_0,
                                  DataType::q4_0, DataType::q4_1, DataType::q5_0, DataType::q5_1,
                                  DataType::q4_k, DataType::q5_k, DataType::q6_k};

std::vector<float> dequantized(DataType type, std::string_view blocks) {
  const auto bytes = std::as_bytes(std::span(blocks));
  const auto num_blocks = std::ssize(blocks) / block_bytes(type);
  std::vector<float> values(static_cast<std::size_t>(num_blocks * block_len(type)));
  dequantize(type, bytes, values);
  return values;
}

TEST(Quant, EqualsTheGgufPackageBitForBit) {
  const test::TempDir dir;
  test::run_python("quant_vectors.py", {dir.path()});
  for (const DataType type : all_types) {
    const std::string name(data_type_name(type));
    SCOPED_TRACE(name);
    const std::string expected = read_file(dir / (name + ".f32"));
    const std::vector<float> values = dequantized(type, read_file(dir / (name + ".blocks")));
    ASSERT_EQ(values.size() * sizeof(float), expected.size());
    std::int64_t num_different = 0;
    for (std::size_t i = 0; i < values.size(); ++i) {
      float wanted = 0;
      std::memcpy(&wanted, expected.data() + i * sizeof(float), sizeof(float));
      const bool is_equal =
          std::bit_cast<std::uint32_t>(values[i]) == std::bit_cast<std::uint32_t>(wanted);
      // Which NaN comes of a NaN in f16 depends on the converting instruction.
      const bool both_nan = type == DataType::f16 && std::isnan(values[i]) && std::isnan(wanted);
      num_different += !is_equal && !both_nan;
    }
    EXPECT_EQ(num_different, 0) << "of " << values.size();
  }
}

TEST(Quant, WritesWhatTheGgufPackageWrites) {
  const test::TempDir dir;
  test::run_python("quant_vectors.py", {dir.path()});
  const std::string bytes = read_file(dir / "values.f32");
  std::vector<float> values(bytes.size() / sizeof(float));
  std::memcpy(values.data(), bytes.data(), bytes.size());
  for (const DataType type :
       {DataType::f16, DataType::bf16, DataType::q8_0, DataType::q4_0, DataType::q4_1}) {
    const std::string name(data_type_name(type));
    SCOPED_TRACE(name);
    const std::string expected = read_file(dir / (name + ".quantized"));
    std::string blocks(expected.size(), '\0');
    quantize(type, values, std::as_writable_bytes(std::span(blocks)));
    std::int64_t num_different = 0;
    for (std::size_t i = 0; i < blocks.size(); ++i) num_different += blocks[i] != expected[i];
    EXPECT_EQ(num_different, 0) << "of " << blocks.size();
  }
}

TEST(Quant, WritesWhatItReads) {
  std::vector<float> values(64);
  for (std::size_t i = 0; i < values.size(); ++i)
    values[i] = static_cast<float>(i % 16) - 8;  // the codes of Q4_0 with scale 1
  for (const DataType type : all_types) {
    if (!can_quantize(type)) continue;
    SCOPED_TRACE(data_type_name(type));
    std::string blocks(static_cast<std::size_t>(data_bytes(type, 64)), '\0');
    quantize(type, values, std::as_writable_bytes(std::span(blocks)));
    const std::vector<float> read = dequantized(type, blocks);
    // Half a step of Q8_0, whose scale is 8 / 127 rounded to f16.
    const float tolerance = type == DataType::q8_0 ? 0.5F * 8 / 127 + 0.005F : 0;
    for (std::size_t i = 0; i < values.size(); ++i) ASSERT_NEAR(read[i], values[i], tolerance);
  }
}

TEST(Quant, RefusesToWriteWhatItCannot) {
  std::vector<float> values(256, 1);
  std::vector<std::byte> out(210);
  EXPECT_FALSE(can_quantize(DataType::q6_k));
  EXPECT_THAT(error_of([&] { quantize(DataType::q6_k, values, out); }),
              IsError(ErrorKind::input, "cannot be written as Q6_K again: use Q8_0 instead"));
  EXPECT_THAT(error_of([&] { quantize(DataType::q8_0, values, out); }),
              IsError(ErrorKind::internal, "256 values are not 210 bytes of Q8_0"));
  out.resize(8 * 34);
  for (const float bad :
       {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(), 1e6F}) {
    values[40] = bad;
    EXPECT_THAT(error_of([&] { quantize(DataType::q8_0, values, out); }),
                IsError(ErrorKind::input, "values 32 to 63"));
  }
}

TEST(Quant, RowsCanBeExpandedApart) {
  for (const DataType type : all_types) {
    SCOPED_TRACE(data_type_name(type));
    std::string blocks(static_cast<std::size_t>(4 * block_bytes(type)), '\0');
    for (std::size_t i = 0; i < blocks.size(); ++i) blocks[i] = static_cast<char>(i % 51);
    const std::vector<float> whole = dequantized(type, blocks);
    std::vector<float> joined;
    for (int part = 0; part < 4; ++part) {
      const auto bytes = static_cast<std::size_t>(block_bytes(type));
      const auto values = dequantized(type, std::string_view(blocks).substr(part * bytes, bytes));
      joined.insert(joined.end(), values.begin(), values.end());
    }
    EXPECT_EQ(joined, whole);
  }
}

TEST(Quant, CountsBytesAndRefusesPartsOfBlocks) {
  EXPECT_EQ(data_bytes(DataType::f32, 7), 28);
  EXPECT_EQ(data_bytes(DataType::q4_1, 64), 40);
  EXPECT_EQ(data_bytes(DataType::q6_k, 512), 420);
  EXPECT_EQ(data_bytes(DataType::q6_k, 0), 0);
  constexpr auto huge = std::numeric_limits<std::int64_t>::max();
  for (const DataType type : all_types) {
    SCOPED_TRACE(data_type_name(type));
    EXPECT_THAT(error_of([&] { data_bytes(type, -block_len(type)); }),
                IsError(ErrorKind::input, "no whole number"));
    if (block_len(type) > 1) {
      EXPECT_THAT(error_of([&] { data_bytes(type, block_len(type) + 1); }),
                  IsError(ErrorKind::input, "no whole number"));
    } else {
      EXPECT_THAT(error_of([&] { data_bytes(type, huge); }), IsError(ErrorKind::input, "overflow"));
    }
  }
}

TEST(Quant, RefusesDataOfAnotherSize) {
  const std::vector<std::byte> data(35);
  std::vector<float> values(32);
  EXPECT_THAT(error_of([&] { dequantize(DataType::q8_0, data, values); }),
              IsError(ErrorKind::internal, "35 bytes of Q8_0"));
}

}  // namespace
}  // namespace gsa::core
