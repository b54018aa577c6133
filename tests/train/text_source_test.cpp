#include "train/text_source.h"

#include <gtest/gtest.h>

#include <functional>

#include "data_files.h"
#include "support/compress.h"
#include "support/errors.h"
#include "support/temp_dir.h"
#include "train/prepare.h"
#include "train/qa_record.h"

namespace gsa::train {
namespace {

using core::TextFile;
using gsa::test::error_of;
using gsa::test::gzip;
using gsa::test::IsError;
using gsa::test::TempDir;
using gsa::test::xz;
using gsa::test::zstd;
using nlohmann::json;
using test::random_text;
using test::write_file;

std::string with_crlf(const std::string& text) {
  std::string out;
  for (const char c : text) out += c == '\n' ? std::string("\r\n") : std::string(1, c);
  return out;
}

std::vector<TextBlock> read_blocks(const std::filesystem::path& path) {
  const TextFile file = TextFile::open(path);
  DocumentReader reader(file, "text");
  std::vector<TextBlock> blocks;
  while (auto block = reader.next()) blocks.push_back(std::move(*block));
  return blocks;
}

std::string join(const std::vector<TextBlock>& blocks) {
  std::string text;
  for (const TextBlock& block : blocks) text += block.text;
  return text;
}

TEST(TextSource, EveryPackingGivesTheSameTokens) {
  const TempDir dir;
  const std::string text = random_text(400'000, 1);  // several blocks
  ASSERT_GT(text.size(), std::size_t{2} << 20);
  const std::string half = text.substr(0, text.size() / 2), rest = text.substr(text.size() / 2);
  const std::map<std::string, std::string> files = {{"a.txt", text},
                                                    {"crlf.txt", with_crlf(text)},
                                                    {"bom.txt", "\xEF\xBB\xBF" + text},
                                                    {"a.txt.gz", gzip(text)},
                                                    {"crlf.txt.gz", gzip(with_crlf(text))},
                                                    {"a.txt.xz", xz(text)},
                                                    {"a.txt.zst", zstd(text)},
                                                    {"misnamed.txt", xz(text)},
                                                    {"two.txt.gz", gzip(half) + gzip(rest)},
                                                    {"two.txt.xz", xz(half) + xz(rest)},
                                                    {"two.txt.zst", zstd(half) + zstd(rest)}};
  std::string expected;
  for (const auto& [name, bytes] : files) {
    write_file(dir / name, bytes);
    EXPECT_EQ(join(read_blocks(dir / name)), text) << name;
    CptPrepareOptions options;
    options.inputs = {{dir / name}};
    options.out = dir / "out.gsa";
    const std::string digest = prepare_cpt(options, test::tokenizer()).digest;
    if (expected.empty()) expected = digest;
    EXPECT_EQ(digest, expected) << name;
  }
}

TEST(TextSource, LineEndsOnBlockBorders) {
  const TempDir dir;
  const std::size_t block = std::size_t{1} << 20;
  for (const std::size_t shift : {0, 1, 2, 3}) {
    const std::string text = std::string(block - shift, 'x') + "\r\n" + std::string(10, 'y') + "\r";
    write_file(dir / "a.txt", text);
    EXPECT_EQ(join(read_blocks(dir / "a.txt")),
              std::string(block - shift, 'x') + "\n" + std::string(10, 'y') + "\r");
  }
}

TEST(TextSource, BlocksNeverSplitCharacters) {
  const TempDir dir;
  std::string text;
  while (text.size() < (std::size_t{5} << 19)) text += "日";  // no line feed
  for (const char* lead : {"", "x", "xx"}) {
    write_file(dir / "a.txt", lead + text);
    const auto blocks = read_blocks(dir / "a.txt");
    EXPECT_GE(blocks.size(), 3U);
    EXPECT_EQ(join(blocks), lead + text);
    for (const TextBlock& block : blocks) EXPECT_EQ(block.text.find("\uFFFD"), std::string::npos);
  }
}

TEST(TextSource, ReadsRecords) {
  const TempDir dir;
  write_file(dir / "a", "\n{\"text\": \"one\\r\\ntwo\"}\r\n  \n{\"text\": \"\", \"n\": 1}");
  const auto blocks = read_blocks(dir / "a");
  ASSERT_EQ(blocks.size(), 2U);
  EXPECT_EQ(blocks[0].text, "one\ntwo");
  EXPECT_TRUE(blocks[0].ends_document);
  EXPECT_EQ(blocks[1].text, "");
}

TEST(TextSource, RefusesWhatIsNoText) {
  const TempDir dir;
  const auto expect_error = [&](const std::string& name, const std::string& bytes,
                                const std::string& part) {
    write_file(dir / name, bytes);
    EXPECT_THAT(error_of([&] { read_blocks(dir / name); }), IsError(ErrorKind::input, part))
        << name;
  };
  const std::string text = random_text(2000, 3);
  for (const auto& [name, packed] : std::map<std::string, std::string>{
           {"a.gz", gzip(text)}, {"a.xz", xz(text)}, {"a.zst", zstd(text)}}) {
    for (std::size_t len = 8; len < packed.size(); len += packed.size() / 40 + 1)
      expect_error(name, packed.substr(0, len), name);
    expect_error(name, text, "holds no");
  }
  std::string damaged = xz(text);
  damaged[damaged.size() / 2] ^= 0x55;
  expect_error("b.xz", damaged, "damaged");
  expect_error("a.txt", std::string("\xFF\xFEh\0i\0", 6), "UTF-16");
  expect_error("a.txt", std::string("ab\0c", 4), "byte 2 is zero");
  expect_error("a.txt", "\xEF\xBB\xBF" + std::string("ab\0c", 4), "byte 5 is zero");
  expect_error("a.txt", std::string((std::size_t{1} << 21) + 5, 'a') + '\0',
               "byte 2097157 is zero");
  expect_error("a.jsonl", "{\"text\": 3}", "text");
  expect_error("a.jsonl", "{\"text\": \"a\"}\n{\"text\": ", "a.jsonl:2");
  expect_error("a.jsonl", "[1]", "a.jsonl:1: is a JSON array");
  EXPECT_THAT(error_of([&] { TextFile::open(dir / "none"); }), IsError(ErrorKind::input, "none"));
  EXPECT_THAT(error_of([&] { TextFile::open(dir.path()); }), IsError(ErrorKind::input, ""));
}

TEST(TextSource, CountsCharacters) {
  EXPECT_EQ(count_chars("aä日x"), 4);
  EXPECT_EQ(char_offset("aä日x", 2), 3U);
  EXPECT_EQ(char_offset("aä日x", 4), 7U);
  EXPECT_EQ(char_offset("aä日x", 9), 7U);
}

TEST(QaRecord, ReadsEveryForm) {
  const auto read = [](const char* text) { return read_qa_record(json::parse(text), "f:1"); };
  const QaRecord squad = read(
      R"({"question": " q ", "context": "c d", "answers": {"text": ["x", "d"], "start": [0]}})");
  EXPECT_EQ(squad.question, "q");
  EXPECT_EQ(squad.best_answer(), "d");
  EXPECT_EQ(squad.passages, std::vector<std::string>{"c d"});
  const QaRecord many = read(
      R"({"question": "q", "documents": [{"title": " T ", "text": " t "}, " p ", {"text": "u"}, ""],
          "answer": "none", "distractors": ["d"]})");
  EXPECT_EQ(many.passages, (std::vector<std::string>{"T\nt", "p", "u"}));
  EXPECT_EQ(many.best_answer(), "none");
  EXPECT_EQ(many.distractors, std::vector<std::string>{"d"});
  EXPECT_EQ(read(R"({"input": "q", "documents": ["c"], "answers": ["a"]})").question, "q");
  EXPECT_EQ(read(R"({"question": "q", "context": "c", "answers": []})").best_answer(), "");
}

TEST(QaRecord, NamesTheFieldThatIsWrong) {
  const std::map<std::string, std::string> cases = {
      {R"({"context": "c", "answer": "a"})",
       "f:1: has no field 'question' (nor 'input'); it has answer, context, expected are question, "
       "answers and passages"},
      {R"({"question": "q", "context": "c", "answer": "a", "distractors": "x"})",
       "f:1: distractors are a JSON string, not a list"},
      {R"({"question": 3, "context": "c", "answer": "a"})", "question"},
      {R"({"question": "q", "context": "c"})", "'answers'"},
      {R"({"question": "q", "answer": "a"})", "'passages'"},
      {R"({"question": "q", "answer": "a", "passages": 3})", "passages are a JSON number"},
      {R"({"question": "q", "answer": "a", "passages": [3]})", "a passage is a JSON number"},
      {R"({"question": "q", "answer": "a", "passages": [{"title": "t"}]})", "no field 'text'"},
      {R"({"question": "q", "answer": [3], "context": "c"})", "an answer is a JSON number"}};
  for (const auto& [text, part] : cases) {
    EXPECT_THAT(error_of([&] { read_qa_record(json::parse(text), "f:1"); }),
                IsError(ErrorKind::input, part))
        << text;
  }
}

}  // namespace
}  // namespace gsa::train
