#include "text/tokenizer.h"

#include <gtest/gtest.h>

#include <fstream>

#include "core/log.h"
#include "support/errors.h"
#include "text/test_vocabularies.h"

namespace gsa::test {
namespace {

using text::Tokenizer;

/// One small vocabulary for all tests of this file; see small_tokenizer.py.
class TokenizerTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    temp_ = std::make_unique<TempDir>();
    run_python("small_tokenizer.py", {*temp_ / "model"});
  }
  static void TearDownTestSuite() { temp_.reset(); }

  static std::filesystem::path dir() { return *temp_ / "model"; }

  static bool starts_word(const std::string& text) {
    const auto id = tokenizer().find_token(text);
    EXPECT_TRUE(id.has_value()) << text;
    return tokenizer().word_starts().at(static_cast<std::size_t>(id.value()));
  }

  static const Tokenizer& tokenizer() {
    static const Tokenizer tokenizer = Tokenizer::from_directory(dir());
    return tokenizer;
  }

 private:
  static std::unique_ptr<TempDir> temp_;
};
std::unique_ptr<TempDir> TokenizerTest::temp_;

TEST_F(TokenizerTest, ReadsWhatStandsBesideTheVocabulary) {
  EXPECT_EQ(tokenizer().bos_id(), tokenizer().find_token("<s>"));
  EXPECT_EQ(tokenizer().eos_id(), tokenizer().find_token("<|im_end|>"));
  EXPECT_EQ(tokenizer().end_of_turn_ids(), std::vector{tokenizer().eos_id().value()});
  EXPECT_EQ(tokenizer().chat_template(), "D");
}

TEST_F(TokenizerTest, AddsSpecialTokensOnlyWhenAsked) {
  const auto bare = tokenizer().encode("import json");
  auto wrapped = bare;
  wrapped.insert(wrapped.begin(), tokenizer().bos_id().value());
  wrapped.push_back(tokenizer().eos_id().value());
  EXPECT_EQ(tokenizer().encode("import json", {.add_special = true}), wrapped);
  EXPECT_TRUE(tokenizer().encode("").empty());
}

TEST_F(TokenizerTest, ControlTokensCountOnlyWhereTheyAreAllowed) {
  const std::string text = "a<|im_end|>b";
  const auto end = tokenizer().eos_id().value();
  EXPECT_EQ(std::ranges::count(tokenizer().encode(text, {.parse_special = true}), end), 1);
  const auto plain = tokenizer().encode(text);
  EXPECT_EQ(std::ranges::count(plain, end), 0);
  EXPECT_EQ(tokenizer().decode(plain), text);

  using Pieces = std::vector<text::PromptPiece>;
  const auto count = [&](const Pieces& pieces) {
    return std::ranges::count(tokenizer().encode(pieces), end);
  };
  EXPECT_EQ(count({{"a<|im_end|>", true}, {"b<|im_end|>", false}}), 1);
  EXPECT_EQ(count({{"<|im_", false}, {"end|>", true}}), 0);
  EXPECT_EQ(count({{"<|im_", true}, {"end|>", false}}), 0);
  EXPECT_EQ(count({{"<|im_", true}, {"end|>", true}}), 1);
  EXPECT_EQ(count({{"x", false}, {"<|im_end|>", true}, {"<|im_end|>", false}}), 1);
}

TEST_F(TokenizerTest, MarkupHoldsInNormalisedTextToo) {
  const auto normal = tokenizer().find_token("<normal>").value();
  using Pieces = std::vector<text::PromptPiece>;
  const auto count = [&](const Pieces& pieces) {
    return std::ranges::count(tokenizer().encode(pieces), normal);
  };
  EXPECT_EQ(count({{"<normal>", true}, {"<normal>", false}}), 1);
  EXPECT_EQ(count({{"u\u0308<normal>", true}}), 1);
  EXPECT_EQ(count({{"u\u0308<normal>", false}}), 0);
}

TEST_F(TokenizerTest, IllFormedBytesBecomeReplacementCharactersWithOneWarning) {
  std::vector<std::string> warnings;
  core::set_warning_handler([&](const std::string& message) { warnings.push_back(message); });
  const auto ids = tokenizer().encode("ok \xff\xc3 and \xe2\x82");
  core::set_warning_handler({});
  EXPECT_EQ(tokenizer().decode(ids), "ok \ufffd\ufffd and \ufffd");
  ASSERT_EQ(warnings.size(), 1u);
  EXPECT_NE(warnings[0].find("first at byte 3"), std::string::npos) << warnings[0];
}

TEST_F(TokenizerTest, IdsOutsideTheVocabularyAreNothing) {
  const std::vector<std::int32_t> ids = {-1, tokenizer().vocab_size(), INT32_MAX, INT32_MIN};
  EXPECT_EQ(tokenizer().decode(ids), "");
  EXPECT_EQ(tokenizer().token_bytes(-5), "");
  EXPECT_FALSE(tokenizer().is_special(tokenizer().vocab_size()));
}

TEST_F(TokenizerTest, DecodeLeavesControlTokensOutWhenAsked) {
  const auto ids = tokenizer().encode("a", {.add_special = true});
  EXPECT_EQ(tokenizer().decode(ids, /*skip_special=*/true), "a");
  EXPECT_EQ(tokenizer().decode(ids, /*skip_special=*/false), "<s>a<|im_end|>");
}

TEST_F(TokenizerTest, WordStarts) {
  ASSERT_EQ(tokenizer().word_starts().size(), static_cast<std::size_t>(tokenizer().vocab_size()));
  for (const char c : std::string(" \t\n.,;:!?-()[]{}\"'")) EXPECT_TRUE(starts_word({c})) << c;
  for (const char c : std::string("aZ0_/\\<>@\xe2")) EXPECT_FALSE(starts_word({c})) << c;
  EXPECT_TRUE(starts_word("<s>")) << "a control token decodes to nothing";
  EXPECT_TRUE(starts_word("  tokens"));
  EXPECT_FALSE(starts_word("日本"));
  EXPECT_FALSE(starts_word("<right>"));
}

TEST_F(TokenizerTest, WordStartsOfRealVocabularies) {
  const TempDir temp;
  unpack_tokenizer_dir(tokenizer_data("qwen2.5"), temp / "model");
  const auto qwen = Tokenizer::from_directory(temp / "model");
  const auto bit = [&](const std::string& text) {
    return qwen.word_starts().at(static_cast<std::size_t>(qwen.find_token(text).value()));
  };
  for (const auto* text : {" the", "\n\n", "—", "\u3000", "\u00a0", "!", "<|im_end|>", "\r\n"}) {
    EXPECT_TRUE(bit(text)) << text;
  }
  for (const auto* text : {"the", "中", "…", "。", "/", "\xe2\x80", "<tool_call>"}) {
    EXPECT_FALSE(bit(text)) << text;
  }
}

TEST_F(TokenizerTest, OtherEndTokensOfGenerationConfigCount) {
  const TempDir temp;
  std::filesystem::copy(dir(), temp / "model");
  std::ofstream(temp / "model" / "generation_config.json") << R"({"eos_token_id": [7, 7, 3]})";
  const auto tokenizer = Tokenizer::from_directory(temp / "model");
  EXPECT_EQ(tokenizer.end_of_turn_ids(), (std::vector{3, 7, tokenizer.eos_id().value()}));
}

TEST_F(TokenizerTest, ChatTemplateOfItsOwnFileWins) {
  const TempDir temp;
  std::filesystem::copy(dir(), temp / "model");
  std::ofstream(temp / "model" / "chat_template.jinja") << "J";
  EXPECT_EQ(Tokenizer::from_directory(temp / "model").chat_template(), "J");
}

/// Time per byte must not grow with the length: what takes minutes when it is quadratic ends the
/// test by its time limit.
TEST_F(TokenizerTest, LongRunsAreEncodedInReasonableTime) {
  constexpr std::size_t len = 1 << 20;
  for (const std::string unit :
       {"a", " ", "\n", "7", ".", "<", "<|i", "ab", "中", "e\u0301", "\t "}) {
    std::string text;
    while (text.size() < len) text += unit;
    const auto ids = tokenizer().encode(text);
    EXPECT_TRUE(tokenizer().decode(ids) == text) << unit;
  }
}

}  // namespace
}  // namespace gsa::test
