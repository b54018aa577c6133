#include "text/unicode.h"

#include <gtest/gtest.h>

#include <string>

namespace gsa::text {
namespace {

TEST(Unicode, CodePointsThereAndBack) {
  const std::string text = "aß段😀";
  EXPECT_EQ(to_code_points(text), U"aß段😀");
  EXPECT_EQ(to_utf8(to_code_points(text)), text);
  EXPECT_EQ(to_code_points(""), U"");
  EXPECT_EQ(to_code_points("a\xFF\xE6\xAE"), U"a\xFFFD\xFFFD\xFFFD");
}

TEST(Unicode, LowerCaseOfOneCharacter) {
  const std::u32string upper = U"AÄΣЖ1段", lower = U"aäσж1段";
  for (std::size_t i = 0; i < upper.size(); ++i) EXPECT_EQ(to_lower(upper[i]), lower[i]) << i;
}

TEST(Unicode, DigitsLettersAndNumbers) {
  for (const char32_t c : std::u32string(U"07３٤")) {
    EXPECT_TRUE(is_decimal_digit(c)) << to_utf8({&c, 1});
    EXPECT_TRUE(is_letter_or_number(c)) << to_utf8({&c, 1});
  }
  for (const char32_t c : std::u32string(U"aß段½Ⅳ")) {
    EXPECT_FALSE(is_decimal_digit(c)) << to_utf8({&c, 1});
    EXPECT_TRUE(is_letter_or_number(c)) << to_utf8({&c, 1});
  }
  for (const char32_t c : std::u32string(U"_ -，\u0301")) {
    EXPECT_FALSE(is_decimal_digit(c)) << to_utf8({&c, 1});
    EXPECT_FALSE(is_letter_or_number(c)) << to_utf8({&c, 1});
  }
}

}  // namespace
}  // namespace gsa::text
