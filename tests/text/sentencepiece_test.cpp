// SentencePiece's vocabularies: merging by score, spaces, bytes. Exact ids of real ones are in
// tokenizer_vectors_test.cpp.

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <numeric>
#include <random>

#include "core/gguf.h"
#include "text/detokenizer.h"
#include "text/score_merges.h"
#include "text/test_vocabularies.h"
#include "text/tokenizer.h"

namespace gsa::test {
namespace {

using nlohmann::json;
using text::Bpe;
using text::Tokenizer;

/// A vocabulary of random words over three letters, one of two bytes; many scores are equal.
struct RandomVocabulary {
  explicit RandomVocabulary(std::mt19937& rng) {
    while (tokens.size() < 40) {
      std::string token;
      for (auto len = 1 + rng() % 6; len > 0; --len) token += letters[rng() % 3];
      tokens.push_back(token);
    }
    for (const std::string letter : letters) tokens.push_back(letter);
    for (std::size_t id = 0; id < tokens.size(); ++id) {
      ids.emplace(tokens[id], static_cast<std::int32_t>(id));
      scores.push_back(-static_cast<double>(rng() % 8));
      special.push_back(id < 40 && rng() % 10 == 0);
    }
    std::ranges::for_each(letters, [&](const char* letter) { special[ids.at(letter)] = false; });
  }

  /// Ids by the definition: merge the neighbours whose text is the token of the highest score, the
  /// leftmost first, until none is a token.
  std::vector<std::int32_t> encode(std::vector<std::string> symbols) const {
    while (true) {
      std::size_t best = symbols.size();
      double best_score = 0;
      for (std::size_t i = 0; i + 1 < symbols.size(); ++i) {
        const auto entry = ids.find(symbols[i] + symbols[i + 1]);
        if (entry == ids.end() || special[entry->second]) continue;
        if (best == symbols.size() || scores[entry->second] > best_score) {
          best = i;
          best_score = scores[entry->second];
        }
      }
      if (best == symbols.size()) break;
      symbols[best] += symbols[best + 1];
      symbols.erase(symbols.begin() + static_cast<std::ptrdiff_t>(best) + 1);
    }
    std::vector<std::int32_t> result;
    for (const auto& symbol : symbols) result.push_back(ids.at(symbol));
    return result;
  }

  std::unordered_map<std::string_view, std::int32_t> views() const {
    return {ids.begin(), ids.end()};
  }

  static constexpr const char* letters[] = {"a", "b", "é"};
  std::vector<std::string> tokens;
  std::map<std::string, std::int32_t, std::less<>> ids;
  std::vector<double> scores;
  std::vector<bool> special;
};

TEST(MergesByScore, FollowTheDefinition) {
  std::mt19937 rng(4);
  for (int round = 0; round < 300; ++round) {
    const RandomVocabulary vocabulary(rng);
    const auto ranked =
        text::merges_by_score(vocabulary.views(), vocabulary.special, vocabulary.scores);
    std::array<std::int32_t, 256> no_bytes;
    no_bytes.fill(-1);
    const Bpe bpe(no_bytes, ranked.merges, ranked.ranks,
                  {{U'a', vocabulary.ids.at("a")},
                   {U'b', vocabulary.ids.at("b")},
                   {U'é', vocabulary.ids.at("é")}});
    for (const std::size_t len : {1, 2, 5, 30, 47, 60, 200}) {
      std::vector<std::string> symbols(len);
      for (auto& symbol : symbols) symbol = RandomVocabulary::letters[rng() % 3];
      const auto piece = std::accumulate(symbols.begin(), symbols.end(), std::string());
      std::vector<std::int32_t> ids;
      bpe.encode(piece, ids);
      ASSERT_EQ(ids, vocabulary.encode(symbols)) << piece;
    }
  }
}

/// Phi-3's vocabulary, as a GGUF file has it.
class SentencePieceTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    const TempDir temp;
    unpack(tokenizer_data("ggml-vocab-phi-3.gguf.xz"), temp / "phi-3.gguf");
    tokenizer_ = std::make_unique<Tokenizer>(
        Tokenizer::from_gguf(core::GgufFile::open(temp / "phi-3.gguf")));
  }
  static void TearDownTestSuite() { tokenizer_.reset(); }

  static const Tokenizer& tokenizer() { return *tokenizer_; }

  static std::int32_t id_of(const std::string& text) {
    const auto id = tokenizer().find_token(text);
    EXPECT_TRUE(id.has_value()) << text;
    return id.value();
  }

 private:
  static std::unique_ptr<Tokenizer> tokenizer_;
};
std::unique_ptr<Tokenizer> SentencePieceTest::tokenizer_;

TEST_F(SentencePieceTest, TextsBeginWithASpaceThatIsNotShown) {
  const auto ids = tokenizer().encode("Hello");
  EXPECT_EQ(ids, std::vector{id_of(" Hello")});
  EXPECT_EQ(tokenizer().decode(ids), "Hello");
  EXPECT_EQ(tokenizer().decode(tokenizer().encode(" Hello")), " Hello");
  EXPECT_TRUE(tokenizer().encode("").empty());
  EXPECT_EQ(tokenizer().encode("a\u2581b"), tokenizer().encode("a b"));
}

TEST_F(SentencePieceTest, ASpaceComesAfterEveryTokenThatSplitsTheText) {
  const auto ids = tokenizer().encode("<|user|>\nHello<|end|>Hello</s>Hello",
                                      {.parse_special = true, .add_special = true});
  const auto hello = id_of(" Hello");
  EXPECT_EQ(ids, (std::vector{id_of("<s>"), id_of("<|user|>"), hello, id_of("<|end|>"), hello,
                              id_of("</s>"), hello}));
  EXPECT_EQ(tokenizer().decode(ids), "Hello Hello</s> Hello");
  EXPECT_EQ(tokenizer().decode(ids, /*skip_special=*/false),
            "<s><|user|> Hello<|end|> Hello</s> Hello");
}

TEST_F(SentencePieceTest, ControlTokensAreNotMergedFromText) {
  for (const std::string text : {"<s>", "<|end|>x", "<unk>", "a<|user|>", "<0x0A>"}) {
    const auto ids = tokenizer().encode(text);
    EXPECT_TRUE(std::ranges::none_of(ids, [](auto id) { return tokenizer().is_special(id); }));
    EXPECT_EQ(tokenizer().decode(ids), text);
  }
}

TEST_F(SentencePieceTest, BytesStandForCharactersWithoutAToken) {
  EXPECT_EQ(tokenizer().encode("\n"), (std::vector{id_of(" "), 3 + '\n'}));
  EXPECT_EQ(tokenizer().encode("🦙"),
            (std::vector{id_of(" "), 3 + 0xf0, 3 + 0x9f, 3 + 0xa6, 3 + 0x99}));
  EXPECT_EQ(tokenizer().token_bytes(3 + 0xe9), "\xe9");
  EXPECT_EQ(tokenizer().token_bytes(3 + ' '), " ");
  EXPECT_NE(id_of(" "), 3 + ' ') << "the token of the character, not of its byte";
}

TEST_F(SentencePieceTest, KnowsItsEndsAndWordStarts) {
  EXPECT_EQ(tokenizer().bos_id(), id_of("<s>"));
  EXPECT_EQ(tokenizer().end_of_turn_ids(), (std::vector{id_of("<|endoftext|>"), id_of("<|end|>")}));
  const auto& word_starts = tokenizer().word_starts();
  for (const auto* text : {" the", "  ", "\n", ".", "<|end|>"}) {
    EXPECT_TRUE(word_starts[id_of(text)]) << text;
  }
  for (const auto* text : {"the", "é", "</s>"}) EXPECT_FALSE(word_starts[id_of(text)]) << text;
  EXPECT_TRUE(word_starts[32'063]) << "a row that only pads decodes to nothing";
  EXPECT_FALSE(word_starts[3 + 0xe9]);
}

TEST_F(SentencePieceTest, PiecesOfTheStreamMakeTheDecodedText) {
  std::mt19937 rng(2);
  for (int round = 0; round < 20'000; ++round) {
    std::vector<std::int32_t> ids(rng() % 8);
    for (auto& id : ids) {
      const std::int32_t some[] = {id_of(" "), 3 + static_cast<std::int32_t>(rng() % 256),
                                   static_cast<std::int32_t>(rng() % 32'064), id_of("<|end|>")};
      id = some[rng() % 4];
    }
    const bool skip_special = rng() % 2 == 0;
    text::Detokenizer detokenizer(tokenizer(), skip_special);
    for (int use = 0; use < 2; ++use) {  // after finish() it is as new
      std::string text;
      for (const auto id : ids) text += detokenizer.push(id);
      text += detokenizer.finish();
      ASSERT_EQ(text, tokenizer().decode(ids, skip_special));
    }
  }
}

TEST_F(SentencePieceTest, LongRunsAreEncodedInReasonableTime) {
  for (const std::string unit :
       {"a", " ", "\n", "7", "<", "ab", "中", "\u2581", "\t ", "\U0001fadf"}) {
    std::string text;
    while (text.size() < std::size_t{1} << 20) text += unit;
    const auto decoded = tokenizer().decode(tokenizer().encode(text));
    EXPECT_TRUE(decoded == (unit == "\u2581" ? std::string(text.size() / 3, ' ') : text)) << unit;
  }
}

/// Most vocabularies have no token with a space behind a letter; then words are encoded one by one.
TEST(SentencePieceWords, ATokenMaySpanWords) {
  json vocab = json::object();
  for (int byte = 0; byte < 256; ++byte) vocab[fmt::format("<0x{:02X}>", byte)] = byte;
  int id = 256;
  for (const char* token : {"▁", "a", "b", "a▁", "a▁b"}) vocab[token] = id++;
  const json tokenizer_json = {
      {"pre_tokenizer",
       {{"type", "Metaspace"},
        {"replacement", "▁"},
        {"prepend_scheme", "never"},
        {"split", false}}},
      {"model",
       {{"type", "BPE"}, {"byte_fallback", true}, {"vocab", vocab}, {"merges", {"a ▁", "a▁ b"}}}}};
  const TempDir temp;
  std::ofstream(temp / "tokenizer.json") << tokenizer_json.dump();
  const auto tokenizer = Tokenizer::from_directory(temp.path());
  EXPECT_EQ(tokenizer.encode("a bb a"), (std::vector{260, 258, 256, 257}));
  EXPECT_EQ(tokenizer.decode(tokenizer.encode(" a b")), " a b") << "no space was added";
}

}  // namespace
}  // namespace gsa::test
