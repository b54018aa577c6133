#include "core/gguf.h"

#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <limits>

#include "core/file.h"
#include "core/gguf_builder.h"
#include "support/errors.h"
#include "support/python.h"
#include "support/temp_dir.h"

namespace gsa::core {
namespace {

using test::error_of;
using test::GgufBuilder;
using test::IsError;

/// The error of opening a file with these bytes; nothing if it opens.
std::optional<Error> error_of_bytes(const GgufBuilder& builder) {
  const test::TempDir dir;
  write_file_atomic(dir / "x.gguf", builder.bytes());
  return error_of([&] { GgufFile::open(dir / "x.gguf"); });
}

float float_at(const GgufTensor& tensor, std::size_t i) {
  float value = 0;
  std::memcpy(&value, tensor.data.data() + i * sizeof(float), sizeof(float));
  return value;
}

class GgufSample : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    dir_ = new test::TempDir;
    test::run_python("gguf_sample.py", {*dir_ / "sample.gguf"});
  }
  static void TearDownTestSuite() { delete dir_; }

  const GgufFile file_ = GgufFile::open(*dir_ / "sample.gguf");

 private:
  static inline test::TempDir* dir_ = nullptr;
};

TEST_F(GgufSample, ReadsEveryKindOfMetadata) {
  const auto value = [&](std::string_view key) { return file_.metadata().find(key)->second; };
  EXPECT_EQ(file_.get_string("general.architecture"), "llama");
  EXPECT_EQ(file_.get_uint("kind.u8"), 200);
  EXPECT_EQ(value("kind.i8"), GgufValue(std::int64_t{-100}));
  EXPECT_EQ(file_.get_uint("kind.u16"), 60000);
  EXPECT_EQ(value("kind.i16"), GgufValue(std::int64_t{-30000}));
  EXPECT_EQ(file_.get_uint("kind.u32"), 4'000'000'000);
  EXPECT_EQ(value("kind.i32"), GgufValue(std::int64_t{-2'000'000'000}));
  EXPECT_EQ(file_.get_uint("kind.u64"), std::numeric_limits<std::uint64_t>::max());
  EXPECT_EQ(value("kind.i64"), GgufValue(std::numeric_limits<std::int64_t>::min()));
  EXPECT_EQ(file_.get_float("kind.f32"), 0.5);
  EXPECT_EQ(file_.get_float("kind.f64"), 1e300);
  EXPECT_TRUE(file_.get_bool_or("kind.bool", false));
  EXPECT_EQ(file_.get_string("kind.string"), "Füße 😀");
  EXPECT_EQ(file_.get_strings("kind.strings"), (std::vector<std::string>{"a", "", "Ġthe"}));
  EXPECT_EQ(file_.get_ints("kind.ints"), (std::vector<std::int64_t>{-1, 0, 7}));
  EXPECT_EQ(file_.get_ints("kind.bytes"), (std::vector<std::int64_t>{1, 2, 255}));
  EXPECT_EQ(file_.get_floats("kind.floats"), (std::vector<double>{0.25, -2.0}));
  EXPECT_EQ(value("kind.bools"), GgufValue(std::vector<bool>{true, false, true}));
}

TEST_F(GgufSample, GivesDefaultsForAbsentKeysOnly) {
  EXPECT_FALSE(file_.has("absent"));
  EXPECT_EQ(file_.get_uint_or("absent", 3), 3);
  EXPECT_EQ(file_.get_float_or("absent", 0.5), 0.5);
  EXPECT_EQ(file_.get_string_or("absent", "x"), "x");
  EXPECT_TRUE(file_.get_bool_or("absent", true));
  EXPECT_THAT(error_of([&] { file_.get_uint("absent"); }),
              IsError(ErrorKind::input, "key 'absent' is missing"));
  EXPECT_THAT(error_of([&] { file_.get_uint_or("kind.string", 3); }),
              IsError(ErrorKind::input, "'kind.string' is a string"));
  EXPECT_THAT(error_of([&] { file_.get_uint("kind.i8"); }),
              IsError(ErrorKind::input, "an integer of at least 0"));
  EXPECT_THAT(error_of([&] { file_.get_strings("kind.ints"); }),
              IsError(ErrorKind::input, "an array of strings"));
}

TEST_F(GgufSample, ReadsTensors) {
  ASSERT_EQ(file_.tensors().size(), 4U);
  const GgufTensor& matrix = file_.tensor("matrix");
  EXPECT_EQ(matrix.type, DataType::f32);
  EXPECT_EQ(matrix.shape, (std::vector<std::int64_t>{3, 64}));
  for (std::size_t i = 0; i < 3 * 64; ++i) ASSERT_EQ(float_at(matrix, i), static_cast<float>(i));

  std::vector<float> values(3 * 64);
  dequantize(file_.tensor("half").type, file_.tensor("half").data, values);
  for (std::size_t i = 0; i < values.size(); ++i) ASSERT_EQ(values[i], static_cast<float>(i));

  const GgufTensor& packed = file_.tensor("packed");
  EXPECT_EQ(packed.type, DataType::q8_0);
  EXPECT_EQ(packed.shape, (std::vector<std::int64_t>{3, 64}));
  dequantize(packed.type, packed.data, values);
  for (std::size_t i = 0; i < values.size(); ++i) ASSERT_NEAR(values[i], static_cast<float>(i), 1);

  EXPECT_EQ(file_.tensor("vector").shape, (std::vector<std::int64_t>{5}));
  EXPECT_EQ(file_.find_tensor("absent"), nullptr);
  EXPECT_THAT(error_of([&] { file_.tensor("absent"); }),
              IsError(ErrorKind::input, "tensor 'absent' is missing"));
}

TEST_F(GgufSample, StaysReadableWhenMoved) {
  GgufFile copy = file_;
  const GgufFile moved = std::move(copy);
  EXPECT_EQ(float_at(moved.tensor("matrix"), 5), 5.0F);
}

TEST_F(GgufSample, LeavesBytesToWhoKeepsThem) {
  std::shared_ptr<const void> owner;
  std::span<const std::byte> bytes;
  {
    const GgufFile file = GgufFile::open(file_.path());
    owner = file.bytes_owner();
    bytes = file.tensor("matrix").data;
  }
  EXPECT_EQ(float_at({.name = {}, .type = DataType::f32, .shape = {3, 64}, .data = bytes}, 5),
            5.0F);
}

TEST(Gguf, RefusesOtherFiles) {
  const test::TempDir dir;
  const auto error_of_text = [&](std::string_view text) {
    write_file_atomic(dir / "x", text);
    return error_of([&] { GgufFile::open(dir / "x"); });
  };
  EXPECT_THAT(error_of([&] { GgufFile::open(dir / "absent.gguf"); }),
              IsError(ErrorKind::input, "absent.gguf: no such file"));
  EXPECT_THAT(error_of_text(""), IsError(ErrorKind::input, "beyond the file's 0 bytes"));
  EXPECT_THAT(error_of_text("<!DOCTYPE html>"), IsError(ErrorKind::input, "no GGUF file"));
  EXPECT_THAT(error_of_bytes(GgufBuilder(0, 0, 1)), IsError(ErrorKind::input, "version: 1 is not"));
  EXPECT_THAT(error_of_bytes(GgufBuilder(0, 0, 0x03000000)),
              IsError(ErrorKind::input, "big-endian"));
}

TEST(Gguf, RefusesCountsThatTheFileCannotHold) {
  constexpr auto huge = std::numeric_limits<std::uint64_t>::max();
  EXPECT_THAT(error_of_bytes(GgufBuilder(huge, 0)), IsError(ErrorKind::input, "number of tensors"));
  EXPECT_THAT(error_of_bytes(GgufBuilder(0, huge)),
              IsError(ErrorKind::input, "number of metadata"));
  EXPECT_THAT(error_of_bytes(GgufBuilder(1, 0)), IsError(ErrorKind::input, "name of tensor 0"));
  EXPECT_THAT(error_of_bytes(GgufBuilder(0, 1).put(huge)),
              IsError(ErrorKind::input, "metadata key 0"));
  EXPECT_THAT(error_of_bytes(GgufBuilder(0, 1).key("k", test::gguf_string).put(huge)),
              IsError(ErrorKind::input, "key 'k': 18446744073709551615 bytes"));
  for (std::uint32_t kind = 0; kind <= 12; ++kind) {
    EXPECT_THAT(error_of_bytes(GgufBuilder(0, 1).key("k", test::gguf_array).put(kind).put(huge)),
                IsError(ErrorKind::input, "key 'k'"));
    EXPECT_THAT(
        error_of_bytes(
            GgufBuilder(0, 1).key("k", test::gguf_array).put(kind).put(std::uint64_t{9999})),
        IsError(ErrorKind::input, "key 'k'"));
  }
}

TEST(Gguf, RefusesWrongMetadata) {
  EXPECT_THAT(error_of_bytes(GgufBuilder(0, 1).key("k", 13).put(std::uint32_t{0})),
              IsError(ErrorKind::input, "key 'k': has the unknown kind 13"));
  EXPECT_THAT(error_of_bytes(GgufBuilder(0, 1).key("k", 7).put(std::uint8_t{2})),
              IsError(ErrorKind::input, "2 is no boolean"));
  EXPECT_THAT(
      error_of_bytes(
          GgufBuilder(0, 1).key("k", test::gguf_array).put(test::gguf_array).put(std::uint64_t{1})),
      IsError(ErrorKind::input, "array of arrays"));
  EXPECT_THAT(error_of_bytes(GgufBuilder(0, 2)
                                 .key("k", test::gguf_u32)
                                 .put(std::uint32_t{1})
                                 .key("k", test::gguf_u32)
                                 .put(std::uint32_t{1})),
              IsError(ErrorKind::input, "key 'k': appears twice"));
  EXPECT_THAT(
      error_of_bytes(GgufBuilder(0, 1).key("split.count", test::gguf_u32).put(std::uint32_t{3})),
      IsError(ErrorKind::input, "one of 3 parts"));
  for (const std::uint32_t alignment : {0U, 24U, 1U << 31}) {
    EXPECT_THAT(
        error_of_bytes(GgufBuilder(0, 1).key("general.alignment", test::gguf_u32).put(alignment)),
        IsError(ErrorKind::input, "is no power of two"));
  }
  EXPECT_THAT(error_of_bytes(GgufBuilder(0, 1).key("a\nb\x01\xFF", 99)),
              IsError(ErrorKind::input, "key 'a?b?\xEF\xBF\xBD'"));
}

TEST(Gguf, RefusesWrongTensors) {
  const auto error_of_tensor = [](const std::vector<std::uint64_t>& dims, std::uint32_t type,
                                  std::uint64_t offset) {
    return error_of_bytes(GgufBuilder(1, 0).tensor("w", dims, type, offset).data(256));
  };
  EXPECT_EQ(error_of_tensor({8, 8}, test::ggml_f32, 0), std::nullopt);
  EXPECT_THAT(error_of_tensor({8, 9}, test::ggml_f32, 0),
              IsError(ErrorKind::input, "tensor 'w': data end at 384 beyond the file's 352 bytes"));
  EXPECT_THAT(error_of_tensor({8, 8}, test::ggml_f32, 32), IsError(ErrorKind::input, "data end"));
  EXPECT_THAT(error_of_tensor({8}, test::ggml_f32, 8), IsError(ErrorKind::input, "no multiple"));
  EXPECT_THAT(error_of_tensor({8}, test::ggml_f32, std::uint64_t{1} << 63),
              IsError(ErrorKind::input, "data begin"));
  EXPECT_THAT(error_of_tensor({8}, 99, 0),
              IsError(ErrorKind::input, "tensor 'w': type id 99 is not supported"));
  EXPECT_THAT(error_of_tensor({0, 8}, test::ggml_f32, 0),
              IsError(ErrorKind::input, "dimension of 0"));
  EXPECT_THAT(error_of_tensor({1, 1, 1, 1, 1}, test::ggml_f32, 0),
              IsError(ErrorKind::input, "has 5 dimensions"));
  constexpr std::uint64_t big = std::uint64_t{1} << 31;
  EXPECT_THAT(error_of_tensor({big, big, big, big}, test::ggml_f32, 0),
              IsError(ErrorKind::input, "overflows"));
  EXPECT_THAT(error_of_tensor({std::uint64_t{1} << 63}, test::ggml_f32, 0),
              IsError(ErrorKind::input, "dimension of"));
  EXPECT_THAT(error_of_tensor({16, 2}, test::ggml_q4_0, 0),
              IsError(ErrorKind::input, "no whole number of Q4_0 blocks"));
  EXPECT_THAT(error_of_tensor({128, 2}, test::ggml_q4_k, 0),
              IsError(ErrorKind::input, "no whole number of Q4_K blocks"));
}

TEST(Gguf, RefusesTensorsThatShareNamesOrBytes) {
  const auto error_of_pair = [](std::string_view second_name, std::uint64_t second_offset) {
    return error_of_bytes(GgufBuilder(2, 0)
                              .tensor("a", {16}, test::ggml_f32, 0)
                              .tensor(second_name, {16}, test::ggml_f32, second_offset)
                              .data(256));
  };
  EXPECT_EQ(error_of_pair("b", 64), std::nullopt);
  EXPECT_EQ(error_of_pair("b", 128), std::nullopt);  // a hole is no harm
  EXPECT_THAT(error_of_pair("b", 32), IsError(ErrorKind::input, "overlap"));
  EXPECT_THAT(error_of_pair("b", 0), IsError(ErrorKind::input, "overlap"));
  EXPECT_THAT(error_of_pair("a", 64), IsError(ErrorKind::input, "tensor 'a': appears twice"));
}

TEST(Gguf, ReadsTensorsBeyondTwoGigabytes) {
  constexpr std::uint64_t offset = std::uint64_t{3} << 30;
  const GgufBuilder header = GgufBuilder(2, 0)
                                 .tensor("near", {std::uint64_t{1} << 29}, test::ggml_f32, 0)
                                 .tensor("far", {4}, test::ggml_f32, offset)
                                 .data(0);
  const test::TempDir dir;
  const auto path = dir / "sparse.gguf";
  write_file_atomic(path, header.bytes());
  const std::uint64_t far_begin = header.bytes().size() + offset;
  std::filesystem::resize_file(path, far_begin + 4 * sizeof(float));  // sparse: takes no room
  std::fstream stream(path, std::ios::in | std::ios::out | std::ios::binary);
  const float last = 42;
  stream.seekp(static_cast<std::streamoff>(far_begin + 3 * sizeof(float)));
  stream.write(reinterpret_cast<const char*>(&last), sizeof(last));
  stream.close();

  const GgufFile file = GgufFile::open(path);
  EXPECT_EQ(file.tensor("near").data.size(), std::size_t{1} << 31);
  EXPECT_EQ(float_at(file.tensor("far"), 0), 0.0F);
  EXPECT_EQ(float_at(file.tensor("far"), 3), last);

  std::filesystem::resize_file(path, far_begin + 4 * sizeof(float) - 1);
  EXPECT_THAT(error_of([&] { GgufFile::open(path); }),
              IsError(ErrorKind::input, "tensor 'far': data end"));
}

}  // namespace
}  // namespace gsa::core
