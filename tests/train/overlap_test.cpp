#include "train/overlap.h"

#include <gtest/gtest.h>

#include <set>

#include "data_files.h"
#include "support/errors.h"
#include "support/temp_dir.h"

namespace gsa::train {
namespace {

using gsa::test::TempDir;
using test::random_text;
using test::tokenizer;
using Tokens = std::vector<std::int32_t>;

std::vector<Tokens> grams_of(const Tokens& tokens) {
  std::vector<Tokens> grams;
  constexpr auto len = static_cast<std::ptrdiff_t>(EvaluationSet::gram_len);
  for (std::ptrdiff_t i = 0; i + len <= std::ssize(tokens); ++i)
    grams.emplace_back(tokens.begin() + i, tokens.begin() + i + len);
  return grams;
}

TEST(EvaluationSet, CountsSharedGramsLikeASetOfThem) {
  const TempDir dir;
  std::vector<std::string> texts;
  std::vector<nlohmann::json> records;
  std::set<Tokens> known;
  for (int i = 0; i < 40; ++i) {
    texts.push_back(random_text(10 + 3 * i, i));
    records.push_back({{"input", "?"}, {"deep", {{"er", {texts.back(), 7, nullptr}}}}});
    for (Tokens& gram : grams_of(tokenizer().encode(texts.back()))) known.insert(std::move(gram));
  }
  test::write_json_lines(dir / "a.jsonl", records);
  const std::vector<std::filesystem::path> files = {dir / "a.jsonl"};
  const EvaluationSet set(files, tokenizer());
  for (int i = 0; i < 60; ++i) {
    const std::string text =
        random_text(30, 900 + i) + "\n" + texts[i % 40] + "\n" + texts[(i + 7) % 40].substr(0, 60);
    const Tokens tokens = tokenizer().encode(text);
    std::int64_t num_shared = 0;
    for (const Tokens& gram : grams_of(tokens)) num_shared += known.contains(gram);
    const Overlap overlap = set.overlap(tokens);
    EXPECT_EQ(overlap.num_grams, std::max<std::int64_t>(0, std::ssize(tokens) - 12));
    EXPECT_EQ(overlap.num_shared, num_shared);
    EXPECT_GT(overlap.share(), 0);
    EXPECT_LT(overlap.share(), 1);
  }
  EXPECT_EQ(set.overlap(tokenizer().encode(texts[30])).share(), 1);
  EXPECT_EQ(set.overlap(Tokens(5, 1)).share(), 0) << "too short for a gram";
}

TEST(EvaluationSet, KnowsWholeTexts) {
  const TempDir dir;
  test::write_json_lines(dir / "a.jsonl", {{{"input", " Who? "}, {"list", {"Yes."}}}});
  test::write_file(dir / "b.txt", "Plain text.\n");
  const std::vector<std::filesystem::path> files = {dir / "a.jsonl", dir / "b.txt"};
  const EvaluationSet set(files, tokenizer());
  for (const char* text : {"Who?", "\nWho?", "Yes.", "Plain text."})
    EXPECT_TRUE(set.has_text(text));
  for (const char* text : {"Who", "Wh o?", "input", "yes."}) EXPECT_FALSE(set.has_text(text));
  EXPECT_FALSE(EvaluationSet().has_text("Who?"));
  EXPECT_TRUE(EvaluationSet().empty());
}

}  // namespace
}  // namespace gsa::train
