#include "text/sha256.h"

#include <gtest/gtest.h>

namespace gsa::test {
namespace {

std::string digest_of(const std::string& text, std::size_t piece_len) {
  text::Sha256 sha;
  for (std::size_t i = 0; i < text.size(); i += piece_len) sha.update(text.substr(i, piece_len));
  return sha.finish();
}

TEST(Sha256, GivesTheDigestsOfItsStandard) {
  EXPECT_EQ(digest_of("", 1), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  EXPECT_EQ(digest_of("abc", 3),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_EQ(digest_of("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq", 5),
            "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
  EXPECT_EQ(digest_of(std::string(1'000'000, 'a'), 999),
            "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

TEST(Sha256, DoesNotDependOnThePieces) {
  for (std::size_t len = 0; len < 200; ++len) {
    const std::string text(len, 'x');
    EXPECT_EQ(digest_of(text, 1), digest_of(text, 64));
  }
}

}  // namespace
}  // namespace gsa::test
