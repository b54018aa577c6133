#include "core/safetensors.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <limits>

#include "core/file.h"
#include "support/errors.h"
#include "support/python.h"
#include "support/temp_dir.h"

namespace gsa::core {
namespace {

using test::error_of;
using test::IsError;

const std::string numbers = "0123456789abcdefghijklmnopqrstuv";  // 32 bytes of data

std::span<const std::byte> data_of(std::size_t num_bytes) {
  return std::as_bytes(std::span(numbers)).first(num_bytes);
}

std::string text_of(const SafeTensor& tensor) {
  return {reinterpret_cast<const char*>(tensor.data.data()), tensor.data.size()};
}

/// The bytes of a file with this header, right or wrong.
std::string file_bytes(const std::string& header, std::size_t num_data_bytes) {
  const std::uint64_t len = header.size();
  std::string bytes(reinterpret_cast<const char*>(&len), sizeof(len));
  return bytes + header + numbers.substr(0, num_data_bytes);
}

std::optional<Error> error_of_header(const std::string& header, std::size_t num_data_bytes) {
  const test::TempDir dir;
  write_file_atomic(dir / "x.safetensors", file_bytes(header, num_data_bytes));
  return error_of([&] { SafetensorsFile::open(dir / "x.safetensors"); });
}

/// The error of a file whose one tensor 'w' has this entry and 8 bytes of data.
std::optional<Error> error_of_entry(const std::string& entry) {
  return error_of_header(R"({"w":)" + entry + "}", 8);
}

TEST(Safetensors, ReadsBackWhatWasWritten) {
  const test::TempDir dir;
  const std::vector<SafeTensor> tensors{{"bytes", "U8", {5}, data_of(5)},
                                        {"matrix", "F32", {2, 3}, data_of(24)},
                                        {"scalar", "BF16", {}, data_of(2)},
                                        {"empty", "F16", {0, 7}, {}}};
  const std::map<std::string, std::string> metadata{{"base", "añb\"c"}, {"rank", "8"}};
  write_safetensors(dir / "x", tensors, metadata);
  const SafetensorsFile file = SafetensorsFile::open(dir / "x");
  EXPECT_EQ(file.metadata(), metadata);
  ASSERT_EQ(file.tensors().size(), tensors.size());
  for (const SafeTensor& expected : tensors) {
    SCOPED_TRACE(expected.name);
    const SafeTensor& tensor = file.tensor(expected.name);
    EXPECT_EQ(tensor.dtype, expected.dtype);
    EXPECT_EQ(tensor.shape, expected.shape);
    EXPECT_EQ(text_of(tensor), text_of(expected));
  }
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(file.tensor("matrix").data.data()) % 4, 0U);
  EXPECT_EQ(file.find_tensor("absent"), nullptr);
  EXPECT_THAT(error_of([&] { file.tensor("absent"); }),
              IsError(ErrorKind::input, "tensor 'absent' is missing"));
}

TEST(Safetensors, AgreesWithTheSafetensorsPackage) {
  const test::TempDir dir;
  const std::vector<SafeTensor> tensors{{"half", "F16", {2, 2}, data_of(8)},
                                        {"ids", "I64", {3}, data_of(24)},
                                        {"flags", "U8", {1, 5}, data_of(5)}};
  write_safetensors(dir / "ours", tensors, {{"format", "pt"}});
  test::run_python("safetensors_copy.py", {dir / "ours", dir / "theirs"});
  const SafetensorsFile theirs = SafetensorsFile::open(dir / "theirs");
  EXPECT_EQ(theirs.metadata().at("format"), "pt");
  ASSERT_EQ(theirs.tensors().size(), tensors.size());
  for (const SafeTensor& expected : tensors) {
    EXPECT_EQ(theirs.tensor(expected.name).shape, expected.shape);
    EXPECT_EQ(text_of(theirs.tensor(expected.name)), text_of(expected));
  }
}

TEST(Safetensors, RefusesWrongHeaders) {
  const test::TempDir dir;
  const auto error_of_bytes = [&](std::string_view bytes) {
    write_file_atomic(dir / "x", bytes);
    return error_of([&] { SafetensorsFile::open(dir / "x"); });
  };
  EXPECT_THAT(error_of_bytes(""), IsError(ErrorKind::input, "0 bytes are too few"));
  EXPECT_THAT(error_of_bytes("<!DOCTYPE html>"), IsError(ErrorKind::input, "no safetensors file"));
  EXPECT_THAT(error_of_bytes(file_bytes("{}", 0).substr(0, 9)),
              IsError(ErrorKind::input, "header ends at 10 beyond the file's 9 bytes"));
  EXPECT_THAT(error_of_header("", 0), IsError(ErrorKind::input, "ends too early"));
  EXPECT_THAT(error_of_header("[]", 0), IsError(ErrorKind::input, "not an object"));
  EXPECT_THAT(error_of_header(std::string(100'000, '['), 0),
              IsError(ErrorKind::input, "nested deeper"));
  EXPECT_THAT(error_of_header(R"({"__metadata__":{"a":1}})", 0),
              IsError(ErrorKind::input, "'a' is no string"));
  EXPECT_THAT(error_of_header(R"({"__metadata__":3})", 0), IsError(ErrorKind::input, "no object"));
  EXPECT_THAT(error_of_header("{}", 4), IsError(ErrorKind::input, "4 bytes after the last tensor"));
  EXPECT_EQ(error_of_header("{}    ", 0), std::nullopt);
}

TEST(Safetensors, RefusesWrongEntries) {
  EXPECT_EQ(error_of_entry(R"({"dtype":"F32","shape":[2],"data_offsets":[0,8]})"), std::nullopt);
  const std::pair<const char*, const char*> cases[] = {
      {R"(7)", "has no dtype"},
      {R"({"dtype":3,"shape":[2],"data_offsets":[0,8]})", "has no dtype"},
      {R"({"dtype":"F33","shape":[2],"data_offsets":[0,8]})", "dtype 'F33' is not supported"},
      {R"({"dtype":"F32","data_offsets":[0,8]})", "has no shape"},
      {R"({"dtype":"F32","shape":[2.0],"data_offsets":[0,8]})", "that is no size"},
      {R"({"dtype":"F32","shape":[-2],"data_offsets":[0,8]})", "that is no size"},
      {R"({"dtype":"F32","shape":[9223372036854775808],"data_offsets":[0,8]})", "that is no size"},
      {R"({"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,8]})", "overflows"},
      {R"({"dtype":"F32","shape":[2],"data_offsets":[0]})", "no valid data_offsets"},
      {R"({"dtype":"F32","shape":[2],"data_offsets":[8,0]})", "no valid data_offsets"},
      {R"({"dtype":"F32","shape":[3],"data_offsets":[0,12]})", "beyond the file's"},
      {R"({"dtype":"F32","shape":[3],"data_offsets":[0,8]})",
       "has 8 bytes of data, its shape and dtype F32 need 12"},
      {R"({"dtype":"F32","shape":[1],"data_offsets":[0,4]})", "4 bytes after the last tensor"},
      {R"({"dtype":"F32","shape":[1],"data_offsets":[4,8]})", "belong to no tensor"},
  };
  for (const auto& [entry, problem] : cases) {
    EXPECT_THAT(error_of_entry(entry), IsError(ErrorKind::input, problem)) << entry;
  }
}

TEST(Safetensors, RefusesTensorsThatShareNamesOrBytes) {
  const auto error_of_pair = [](const char* name, int begin, int end) {
    return error_of_header(
        fmt::format(R"({{"a":{{"dtype":"U8","shape":[4],"data_offsets":[0,4]}},)"
                    R"("{}":{{"dtype":"U8","shape":[{}],"data_offsets":[{},{}]}}}})",
                    name, end - begin, begin, end),
        8);
  };
  EXPECT_EQ(error_of_pair("b", 4, 8), std::nullopt);
  EXPECT_THAT(error_of_pair("b", 2, 8), IsError(ErrorKind::input, "overlap"));
  EXPECT_THAT(error_of_pair("b", 0, 8), IsError(ErrorKind::input, "overlap"));
  EXPECT_THAT(error_of_pair("b", 5, 8), IsError(ErrorKind::input, "belong to no tensor"));
  EXPECT_THAT(error_of_pair("a", 4, 8), IsError(ErrorKind::input, "'a' appears twice"));
}

class ModelDirectory : public testing::Test {
 protected:
  void write(const std::string& file, const std::string& tensor) {
    const std::vector<SafeTensor> tensors{{tensor, "U8", {3}, data_of(3)}};
    write_safetensors(dir_ / file, tensors, {{"format", "pt"}});
  }
  void write_index(const std::string& weight_map) {
    write_file_atomic(dir_ / "model.safetensors.index.json",
                      R"({"metadata":{},"weight_map":)" + weight_map + "}");
  }
  std::optional<Error> error() const {
    return error_of([&] { SafetensorsFile::open_directory(dir_.path()); });
  }

  test::TempDir dir_;
};

TEST_F(ModelDirectory, ReadsOneFileOrShards) {
  write("one.safetensors", "a");
  write("two.safetensors", "b");
  write_index(R"({"a":"one.safetensors","b":"two.safetensors"})");
  const SafetensorsFile shards = SafetensorsFile::open_directory(dir_.path());
  EXPECT_EQ(shards.tensors().size(), 2U);
  EXPECT_EQ(text_of(shards.tensor("b")), "012");

  write("model.safetensors", "whole");
  EXPECT_NE(SafetensorsFile::open_directory(dir_.path()).find_tensor("whole"), nullptr);
}

TEST_F(ModelDirectory, RefusesBrokenIndexes) {
  EXPECT_THAT(error(), IsError(ErrorKind::input, "holds neither model.safetensors nor"));
  write("one.safetensors", "a");
  write("copy.safetensors", "a");
  write_index(R"({"a":"one.safetensors","b":"absent.safetensors"})");
  EXPECT_THAT(error(), IsError(ErrorKind::input, "absent.safetensors: no such file"));
  write_index(R"({"a":"one.safetensors","b":"copy.safetensors"})");
  EXPECT_THAT(error(), IsError(ErrorKind::input, "tensor 'a' is in another shard too"));
  for (const char* shard : {R"("../one.safetensors")", R"("/etc/passwd")", R"("")", "3"}) {
    write_index(fmt::format(R"({{"a":{}}})", shard));
    EXPECT_THAT(error(), IsError(ErrorKind::input, "no valid file name")) << shard;
  }
  for (const char* weight_map : {"{}", "[]", "null"}) {
    write_index(weight_map);
    EXPECT_THAT(error(), IsError(ErrorKind::input, "has no weight_map")) << weight_map;
  }
}

TEST(SafetensorsWriter, RefusesWhatCannotBeReadBack) {
  const test::TempDir dir;
  const auto error_of_write = [&](std::vector<SafeTensor> tensors) {
    return error_of([&] { write_safetensors(dir / "x", tensors, {}); });
  };
  EXPECT_THAT(error_of_write({{"w", "F32", {3}, data_of(8)}}),
              IsError(ErrorKind::internal, "tensor 'w' has 8 bytes"));
  EXPECT_THAT(error_of_write({{"w", "F33", {2}, data_of(8)}}),
              IsError(ErrorKind::internal, "tensor 'w'"));
  EXPECT_THAT(error_of_write({{"w", "U8", {1}, data_of(1)}, {"w", "U8", {1}, data_of(1)}}),
              IsError(ErrorKind::internal, "two tensors 'w'"));
}

}  // namespace
}  // namespace gsa::core
