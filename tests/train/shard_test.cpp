#include "train/shard.h"

#include <gtest/gtest.h>

#include <functional>

#include "data_files.h"
#include "support/errors.h"
#include "support/temp_dir.h"
#include "train/spool.h"

namespace gsa::train {
namespace {

using gsa::test::error_of;
using gsa::test::IsError;
using gsa::test::TempDir;
using test::read_file;
using test::tokenizer;
using test::write_file;
using Tokens = std::vector<std::int32_t>;

template <typename T>
std::span<const std::byte> bytes_of(const std::vector<T>& values) {
  return std::as_bytes(std::span(values));
}

/// The tensors of a small shard of questions, which tests damage.
struct FtTensors {
  std::vector<std::uint16_t> tokens = {10, 11, 12, 13, 14, 15, 16, 17};
  std::vector<std::int64_t> offsets = {0, 2, 3, 4, 5, 7, 8};  // 2 passages, 2 questions, 2 answers
  std::vector<std::int32_t> passages = {0, 1, 0}, distractors = {1};
  std::vector<std::int64_t> passage_offsets = {0, 1, 3}, distractor_offsets = {0, 1, 1};

  std::string write(const std::filesystem::path& path) const {
    ShardInfo info;
    info.kind = DataKind::ft;
    info.tokenizer = tokenizer().digest();
    info.seed = 7;
    info.num_tokens = std::ssize(tokens);
    info.sources = "[]";
    const auto part = [](std::string name, std::string dtype, const auto& values) {
      return core::SafeTensorParts{
          std::move(name), std::move(dtype), {std::ssize(values)}, {bytes_of(values)}};
    };
    const std::vector<core::SafeTensorParts> parts = {
        part("tokens", "U16", tokens),
        part("offsets", "I64", offsets),
        part("passages", "I32", passages),
        part("passage_offsets", "I64", passage_offsets),
        part("distractors", "I32", distractors),
        part("distractor_offsets", "I64", distractor_offsets)};
    return write_shard(path, info, parts);
  }
};

std::string write_cpt(const std::filesystem::path& path, const TokenFormat& format,
                      const Tokens& tokens, std::int64_t row_len, ShardInfo info = {}) {
  if (info.tokenizer.empty()) info.tokenizer = tokenizer().digest();
  info.row_len = row_len;
  info.num_tokens = std::ssize(tokens);
  info.sources = "[]";
  const auto bytes = format.pack(tokens);
  const core::SafeTensorParts part{
      "tokens", format.dtype(), {std::ssize(tokens) / row_len, row_len}, {bytes}};
  return write_shard(path, info, std::span(&part, 1));
}

TEST(Shard, GivesBackWindowsInBothWidths) {
  const TempDir dir;
  const Tokens tokens = {1, 2, 3, 49000, 5, 6};
  for (const std::int32_t vocab : {49152, 65536, 65537, 200'000}) {
    const TokenFormat format = TokenFormat::for_vocabulary(vocab);
    EXPECT_EQ(format.dtype(), vocab <= 65536 ? "U16" : "I32");
    const std::string digest = write_cpt(dir / "a.gsa", format, tokens, 3);
    const CptShard shard = CptShard::open(dir / "a.gsa", tokenizer());
    ASSERT_EQ(shard.num_windows(), 2);
    EXPECT_EQ(shard.window(1), Tokens({49000, 5, 6}));
    EXPECT_EQ(shard.info().digest, digest);
    EXPECT_EQ(shard.info().row_len, 3);
  }
}

TEST(Shard, GivesBackQuestions) {
  const TempDir dir;
  FtTensors().write(dir / "a.gsa");
  const FtShard shard = FtShard::open(dir / "a.gsa", tokenizer());
  EXPECT_EQ(shard.num_passages(), 2);
  EXPECT_EQ(shard.num_questions(), 2);
  EXPECT_EQ(shard.passage(0), Tokens({10, 11}));
  EXPECT_EQ(shard.question(1), Tokens({14})) << "the fourth text";
  EXPECT_EQ(shard.answer(0), Tokens({15, 16}));
  EXPECT_EQ(Tokens(shard.passages_of(1).begin(), shard.passages_of(1).end()), Tokens({1, 0}));
  EXPECT_TRUE(shard.distractors_of(1).empty());
  EXPECT_EQ(shard.info().seed, 7U);
}

TEST(Shard, RefusesDamage) {
  const TempDir dir;
  const auto expect_error = [&](const std::function<void(FtTensors&)>& damage,
                                const std::string& part) {
    FtTensors tensors;
    damage(tensors);
    tensors.write(dir / "a.gsa");
    EXPECT_THAT(error_of([&] { FtShard::open(dir / "a.gsa", tokenizer()); }),
                IsError(ErrorKind::input, part));
  };
  expect_error([](auto& t) { t.tokens[3] = 49152; }, "token 49152 is outside the vocabulary");
  expect_error([](auto& t) { t.offsets[2] = 1; }, "offsets do not ascend");
  expect_error([](auto& t) { t.offsets.back() = 9; }, "offsets do not ascend");
  expect_error([](auto& t) { t.passages[1] = 2; }, "there is no passage 2");
  expect_error([](auto& t) { t.distractors[0] = -1; }, "there is no passage -1");
  expect_error([](auto& t) { t.passage_offsets.pop_back(); }, "do not ascend");
  expect_error([](auto& t) { t.distractor_offsets = {0, 1}; }, "do not fit together");
  expect_error(
      [](auto& t) {
        t.passage_offsets = {0, 0, 1, 2, 3};
        t.distractor_offsets = {0, 0, 0, 0, 1};
      },
      "do not fit together");
  expect_error([](auto& t) { t.passage_offsets = {0, -1, 3}; }, "do not ascend");
}

TEST(Shard, RefusesOtherFiles) {
  const TempDir dir;
  const TokenFormat format = TokenFormat::for_vocabulary(1000);
  const auto expect_error = [&](const std::string& part) {
    EXPECT_THAT(error_of([&] { CptShard::open(dir / "a.gsa", tokenizer()); }),
                IsError(ErrorKind::input, part));
  };
  ShardInfo other;
  other.tokenizer = std::string(64, 'a');
  write_cpt(dir / "a.gsa", format, {1, 2}, 2, other);
  expect_error("was made with the tokenizer aaaaaaaaaaaaaaaa, the model has");
  FtTensors().write(dir / "a.gsa");
  expect_error("holds data of kind ft, cpt is needed");
  write_cpt(dir / "a.gsa", format, {1, 2}, 2);
  const std::string whole = read_file(dir / "a.gsa");
  for (std::size_t len = 0; len < whole.size(); len += 5) {
    write_file(dir / "a.gsa", std::string_view(whole).substr(0, len));
    EXPECT_TRUE(error_of([&] { CptShard::open(dir / "a.gsa", tokenizer()); })) << len;
  }
  core::write_safetensors(dir / "a.gsa", std::vector<core::SafeTensor>{}, {{"format", "pt"}});
  expect_error("gsa train prepare");
  write_file(dir / "a.gsa", "{\"text\": \"A line of text that nobody has prepared.\"}\n");
  expect_error("is no data prepared for training");
  EXPECT_THAT(error_of([&] { CptShard::open(dir / "none", tokenizer()); }),
              IsError(ErrorKind::input, "none"));
}

TEST(Shard, DigestFollowsTheTokens) {
  const TempDir dir;
  const TokenFormat format = TokenFormat::for_vocabulary(1000);
  const std::string first = write_cpt(dir / "a", format, {1, 2, 3, 4}, 2);
  EXPECT_EQ(write_cpt(dir / "b", format, {1, 2, 3, 4}, 4), first);
  EXPECT_NE(write_cpt(dir / "c", format, {1, 2, 3, 5}, 2), first);
}

TEST(Spool, GivesBackWhatWasAppended) {
  const TempDir dir;
  Spool spool(dir / "out");
  EXPECT_TRUE(std::filesystem::is_empty(dir.path())) << "the file has no name";
  EXPECT_TRUE(spool.map().empty());
  std::vector<std::uint16_t> expected;
  for (int i = 0; i < 300; ++i) {
    const std::vector<std::uint16_t> some(i * 37 % 5000, static_cast<std::uint16_t>(i));
    expected.insert(expected.end(), some.begin(), some.end());
    spool.append(bytes_of(some));
    if (i % 100 == 99) {
      EXPECT_TRUE(std::ranges::equal(spool.map(), bytes_of(expected)));
    }
  }
  EXPECT_EQ(spool.num_bytes(), 2 * expected.size());
}

}  // namespace
}  // namespace gsa::train
