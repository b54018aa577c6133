#include "core/text_file.h"

#include <gtest/gtest.h>

#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "core/rng.h"
#include "support/compress.h"
#include "support/errors.h"
#include "support/temp_dir.h"

namespace gsa::core {
namespace {

using nlohmann::json;
using test::error_of;
using test::gzip;
using test::IsError;
using test::TempDir;
using test::xz;
using test::zstd;

void write(const std::filesystem::path& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary) << bytes;
}

/// Lines of records whose texts are random, some of them blank lines.
std::string random_lines(int num_lines, std::uint64_t seed) {
  Rng rng(seed);
  std::string lines;
  for (int i = 0; i < num_lines; ++i) {
    std::string text(rng.below(300), ' ');
    for (char& c : text) c = static_cast<char>('a' + rng.below(26));
    lines += json{{"n", i}, {"text", text}}.dump() + (rng.below(2) == 0 ? "\r\n" : "\n");
    if (rng.below(4) == 0) lines += " \t\n";
  }
  return lines;
}

std::vector<json> read_records(const std::filesystem::path& path) {
  const TextFile file = TextFile::open(path);
  RecordReader reader(file);
  std::vector<json> records;
  for (json record; reader.next(record);) records.push_back(record);
  EXPECT_EQ(reader.num_consumed(), file.num_bytes());
  return records;
}

TEST(TextFile, EveryPackingGivesTheSameRecords) {
  const TempDir dir;
  const std::string text = random_lines(10'000, 1);  // several blocks
  ASSERT_GT(text.size(), std::size_t{1} << 20);
  const std::string half = text.substr(0, text.size() / 2), rest = text.substr(text.size() / 2);
  write(dir / "a.jsonl", text);
  const auto expected = read_records(dir / "a.jsonl");
  ASSERT_EQ(expected.size(), 10'000U);
  EXPECT_EQ(expected.back()["n"], 9'999);
  const std::map<std::string, std::string> files = {
      {"a.jsonl.gz", gzip(text)},
      {"a.jsonl.xz", xz(text)},
      {"a.jsonl.zst", zstd(text)},
      {"misnamed.jsonl", xz(text)},
      {"parts.jsonl.gz", gzip(half) + gzip(rest)},
      {"parts.jsonl.xz", xz(half) + xz(rest)},
      {"parts.jsonl.zst", zstd(half) + zstd(rest)},
      {"open.jsonl", text.substr(0, text.find_last_not_of(" \t\r\n") + 1)}};
  for (const auto& [name, bytes] : files) {
    write(dir / name, bytes);
    EXPECT_EQ(read_records(dir / name), expected) << name;
  }
}

TEST(TextFile, TellsRecordsFromTextByNameOrFirstByte) {
  const TempDir dir;
  const std::map<std::string, bool> by_name = {
      {"a.jsonl", true},   {"a.ndjson.gz", true}, {"a.json.xz", true},   {"a.txt", false},
      {"a.md.zst", false}, {"a", true},           {"b.unknown.gz", true}};
  for (const auto& [name, is_json_lines] : by_name) {
    const std::string text = "  {\"a\": 1}\n";
    write(dir / name, name.ends_with(".gz")    ? gzip(text)
                      : name.ends_with(".xz")  ? xz(text)
                      : name.ends_with(".zst") ? zstd(text)
                                               : text);
    EXPECT_EQ(TextFile::open(dir / name).is_json_lines(), is_json_lines) << name;
  }
  write(dir / "a", "text {}");
  EXPECT_FALSE(TextFile::open(dir / "a").is_json_lines());
}

TEST(TextFile, NamesTheLineOfAMistake) {
  const TempDir dir;
  const std::map<std::string, std::string> cases = {
      {"{\"a\": 1}\n\n{\"a\": ", "a.jsonl:3"},
      {"[1]", "a.jsonl:1: is a JSON array, not an object"},
      {"{}\n\"text\"", "a.jsonl:2: is a JSON string"},
      {"{} {}", "a.jsonl:1"}};
  for (const auto& [text, part] : cases) {
    write(dir / "a.jsonl", text);
    EXPECT_THAT(error_of([&] { read_records(dir / "a.jsonl"); }), IsError(ErrorKind::input, part))
        << text;
  }
}

TEST(TextFile, RefusesWhatIsDamagedOrMissing) {
  const TempDir dir;
  const std::string text = random_lines(60, 3);
  for (const auto& [name, packed] : std::map<std::string, std::string>{
           {"a.gz", gzip(text)}, {"a.xz", xz(text)}, {"a.zst", zstd(text)}}) {
    for (std::size_t len = 8; len < packed.size(); len += packed.size() / 40 + 1) {
      write(dir / name, packed.substr(0, len));
      EXPECT_THAT(error_of([&] { read_records(dir / name); }), IsError(ErrorKind::input, name))
          << len;
    }
    write(dir / name, text);
    EXPECT_THAT(error_of([&] { read_records(dir / name); }), IsError(ErrorKind::input, "holds no"));
  }
  Rng rng(4);
  for (int round = 0; round < 200; ++round) {  // any bytes: records or an error, nothing else
    std::string packed = round % 3 == 0 ? gzip(text) : round % 3 == 1 ? xz(text) : zstd(text);
    for (int i = 0; i < 3; ++i) {  // behind the bytes that name the packing
      const std::size_t at = 6 + rng.below(static_cast<std::uint32_t>(packed.size() - 6));
      packed[at] = static_cast<char>(rng.below(256));
    }
    write(dir / "damaged", packed);
    const auto error = error_of([&] { read_records(dir / "damaged"); });
    if (error) {
      EXPECT_EQ(error->kind(), ErrorKind::input) << error->what();
    }
  }
  write(dir / "empty", "");
  EXPECT_THAT(error_of([&] { TextFile::open(dir / "empty"); }),
              IsError(ErrorKind::input, "it is empty"));
  EXPECT_THAT(error_of([&] { TextFile::open(dir / "none"); }), IsError(ErrorKind::input, "none"));
  EXPECT_THAT(error_of([&] { TextFile::open(dir.path()); }), IsError(ErrorKind::input, ""));
}

TEST(TextFile, Trims) {
  EXPECT_EQ(trimmed(" \n a b\t"), "a b");
  EXPECT_EQ(trimmed(" \n"), "");
}

}  // namespace
}  // namespace gsa::core
