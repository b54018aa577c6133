// Weight files with random damage: every one gives a single clear error or opens, and then all its
// data can be read. Run it with the address sanitizer, too.

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <fstream>
#include <functional>
#include <numeric>

#include "core/file.h"
#include "core/gguf.h"
#include "core/gguf_builder.h"
#include "core/rng.h"
#include "core/safetensors.h"
#include "support/errors.h"
#include "support/largest_allocation.h"
#include "support/temp_dir.h"

namespace gsa::core {
namespace {

using test::error_of;
using test::IsError;

constexpr int num_cuts = 200;
constexpr int num_flips = 1000;

int sum_of(std::span<const std::byte> bytes) {
  return std::accumulate(bytes.begin(), bytes.end(), 0,
                         [](int sum, std::byte byte) { return sum + static_cast<int>(byte); });
}

/// A good file and the function that opens one and reads every byte of it.
struct FileFormat {
  std::string name;
  std::string bytes;
  std::size_t header_bytes;
  std::function<int(const std::filesystem::path&)> read_all;
};

FileFormat gguf_format() {
  test::GgufBuilder builder(3, 4);
  builder.key("general.architecture", test::gguf_string).string("llama");
  builder.key("llama.block_count", test::gguf_u32).put(std::uint32_t{2});
  builder.key("tokens", test::gguf_array).put(test::gguf_string).put(std::uint64_t{40});
  for (int i = 0; i < 40; ++i) builder.string(fmt::format("token{}", i));
  builder.key("types", test::gguf_array).put(test::gguf_u32).put(std::uint64_t{40});
  for (std::uint32_t i = 0; i < 40; ++i) builder.put(i);
  builder.tensor("norm", {64}, test::ggml_f32, 0);
  builder.tensor("blocks", {64, 4}, test::ggml_q4_0, 256);
  builder.tensor("superblocks", {256, 2}, test::ggml_q4_k, 416);
  builder.data(0);
  const std::size_t header_bytes = builder.bytes().size();
  builder.data(416 + 288);
  return {"gguf", builder.bytes(), header_bytes, [](const std::filesystem::path& path) {
            const GgufFile file = GgufFile::open(path);
            int sum = 0;
            for (const GgufTensor& tensor : file.tensors()) {
              std::int64_t num_values = 1;
              for (const std::int64_t size : tensor.shape) num_values *= size;
              std::vector<float> values(static_cast<std::size_t>(num_values));
              dequantize(tensor.type, tensor.data, values);
              sum += sum_of(tensor.data);
            }
            return sum;
          }};
}

FileFormat safetensors_format() {
  const std::vector<std::byte> data(64, std::byte{1});
  const auto bytes = std::span(data);
  const std::vector<SafeTensor> tensors{{"weight", "F32", {2, 8}, bytes},
                                        {"norm", "BF16", {16}, bytes.first(32)},
                                        {"mask", "BOOL", {3, 1}, bytes.first(3)},
                                        {"empty", "I64", {0, 4}, {}}};
  const test::TempDir dir;
  write_safetensors(dir / "x", tensors, {{"format", "pt"}, {"note", "two words"}});
  std::string file_bytes = read_file(dir / "x");
  const std::size_t header_bytes = file_bytes.size() - 64 - 32 - 3;
  return {"safetensors", std::move(file_bytes), header_bytes,
          [](const std::filesystem::path& path) {
            const SafetensorsFile file = SafetensorsFile::open(path);
            int sum = 0;
            for (const SafeTensor& tensor : file.tensors()) sum += sum_of(tensor.data);
            return sum;
          }};
}

class HostileFile : public testing::TestWithParam<FileFormat> {
 protected:
  /// Reads a file with these bytes. No single allocation may be out of proportion to the file.
  std::optional<Error> error_of_bytes(std::string_view bytes) const {
    // Written in place: syncing every one of thousands of files would take most of the time.
    std::ofstream(dir_ / "x", std::ios::binary) << bytes;
    test::reset_largest_allocation();
    const auto error = error_of([&] { GetParam().read_all(dir_ / "x"); });
    EXPECT_LE(test::largest_allocation(), 64 * GetParam().bytes.size());
    return error;
  }

 private:
  test::TempDir dir_;
};

TEST_P(HostileFile, OpensUndamaged) { EXPECT_EQ(error_of_bytes(GetParam().bytes), std::nullopt); }

TEST_P(HostileFile, CutAnywhereGivesOneClearError) {
  const std::string& bytes = GetParam().bytes;
  Rng rng(1);
  for (int i = 0; i < num_cuts; ++i) {
    // Cuts lie in the header as often as in the data.
    const std::size_t end = i % 2 == 0 ? GetParam().header_bytes : bytes.size();
    const std::size_t cut = rng.below(static_cast<std::uint32_t>(end));
    SCOPED_TRACE(fmt::format("cut at {} of {}", cut, bytes.size()));
    EXPECT_THAT(error_of_bytes(bytes.substr(0, cut)), IsError(ErrorKind::input, GetParam().name));
  }
}

TEST_P(HostileFile, FlippedHeaderBytesGiveOneClearErrorOrAReadableFile) {
  Rng rng(2);
  int num_refused = 0;
  for (int i = 0; i < num_flips; ++i) {
    std::string bytes = GetParam().bytes;
    const std::uint32_t num_damaged = 1 + rng.below(3);
    for (std::uint32_t j = 0; j < num_damaged; ++j) {
      const std::size_t at = rng.below(static_cast<std::uint32_t>(GetParam().header_bytes));
      bytes[at] = static_cast<char>(i % 2 == 0 ? bytes[at] ^ (1 << rng.below(8)) : rng.below(256));
    }
    SCOPED_TRACE(fmt::format("flip {}", i));
    const auto error = error_of_bytes(bytes);
    if (!error) continue;
    EXPECT_THAT(error, IsError(ErrorKind::input, ": "));
    ++num_refused;
  }
  EXPECT_GT(num_refused, num_flips / 10);  // the damage did reach fields that matter
}

INSTANTIATE_TEST_SUITE_P(Formats, HostileFile, testing::Values(gguf_format(), safetensors_format()),
                         [](const auto& format) { return format.param.name; });

}  // namespace
}  // namespace gsa::core
