#include "text/detokenizer.h"

#include <gtest/gtest.h>

#include <random>

#include "core/utf8.h"
#include "text/test_vocabularies.h"

namespace gsa::test {
namespace {

using text::Detokenizer;
using text::Tokenizer;

class DetokenizerTest : public ::testing::Test {
 protected:
  DetokenizerTest() {
    unpack_tokenizer_dir(tokenizer_data("gpt2"), temp_ / "model");
    tokenizer_ = std::make_unique<Tokenizer>(Tokenizer::from_directory(temp_ / "model"));
    for (int byte = 0; byte < 256; ++byte) {
      byte_ids_.push_back(tokenizer_->find_token(std::string(1, static_cast<char>(byte))).value());
    }
  }

  const TempDir temp_;
  std::unique_ptr<Tokenizer> tokenizer_;
  std::vector<std::int32_t> byte_ids_;  // tokens of single bytes
};

TEST_F(DetokenizerTest, PiecesAreWholeCharactersAndMakeTheDecodedText) {
  std::mt19937 rng(1);
  const auto below = [&](std::size_t end) { return rng() % end; };
  // Bytes that begin and go on with characters of every length, and bytes that never do.
  const std::vector<int> bytes = {'a',  0x80, 0xbf, 0xc2, 0xe0, 0xe2, 0xed, 0xef, 0xf0,
                                  0xf4, 0x82, 0x9f, 0xa0, 0x8f, 0x90, 0xc0, 0xf5, 0xff};
  for (int round = 0; round < 20'000; ++round) {
    std::vector<std::int32_t> ids(below(12));
    for (auto& id : ids) {
      id = below(4) == 0 ? static_cast<std::int32_t>(below(50'300))
                         : byte_ids_[bytes[below(bytes.size())]];
    }
    const bool skip_special = below(2) == 0;
    Detokenizer detokenizer(*tokenizer_, skip_special);
    std::string text;
    for (const auto id : ids) {
      const auto piece = detokenizer.push(id);
      EXPECT_EQ(core::decode_utf8(piece).num_replaced, 0u);
      text += piece;
    }
    text += detokenizer.finish();
    ASSERT_EQ(text, tokenizer_->decode(ids, skip_special));
    EXPECT_EQ(detokenizer.finish(), "");
  }
}

TEST_F(DetokenizerTest, ACharacterComesWithItsLastByte) {
  Detokenizer detokenizer(*tokenizer_);
  EXPECT_EQ(detokenizer.push(byte_ids_[0xf0]), "");
  EXPECT_EQ(detokenizer.push(byte_ids_[0x9f]), "");
  EXPECT_EQ(detokenizer.push(byte_ids_[0x98]), "");
  EXPECT_EQ(detokenizer.push(byte_ids_[0x80]), "😀");
  EXPECT_EQ(detokenizer.push(byte_ids_[0xe4]), "");
  EXPECT_EQ(detokenizer.finish(), "\ufffd");
}

}  // namespace
}  // namespace gsa::test
