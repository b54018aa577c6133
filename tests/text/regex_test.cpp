#include "text/regex.h"

#include <gtest/gtest.h>

#include "support/errors.h"

namespace gsa::test {
namespace {

using text::Regex;

/// Does the pattern match the whole text?
bool matches(const std::string& pattern, const std::string& text) {
  const Regex regex(pattern, "test");
  Regex::Matcher matcher(regex);
  std::size_t begin = 0;
  std::size_t end = 0;
  return matcher.find(text, 0, begin, end) && begin == 0 && end == text.size();
}

TEST(Regex, ClassesMeanWhatTheyMeanToTokenizers) {
  for (const std::string space : {" ", "\t", "\v", "\u0085", "\u00a0", "\u2028", "\u3000"}) {
    EXPECT_TRUE(matches(R"(\s)", space));
    EXPECT_TRUE(matches(R"([\s])", space));
    EXPECT_FALSE(matches(R"(\S)", space));
    EXPECT_FALSE(matches(R"([^\s])", space));
  }
  for (const std::string other : {"\u180e", "\u200b", "\x1c", "a"}) {
    EXPECT_FALSE(matches(R"(\s)", other));
    EXPECT_TRUE(matches(R"(\S)", other));
    EXPECT_TRUE(matches(R"([^\s])", other));
  }
  // Letters and digits of Unicode 15 and 16, younger than the library's tables.
  for (const std::string letter : {"a", "中", "\U00031350", "\u1c89", "\U000105c0"}) {
    EXPECT_TRUE(matches(R"(\p{L})", letter));
    EXPECT_FALSE(matches(R"([^\p{L}\p{N}])", letter));
  }
  EXPECT_TRUE(matches(R"(\p{N})", "\U0001e4f0"));
  EXPECT_TRUE(matches(R"(\\s\[\s])", R"(\s[ ])"));
}

TEST(Regex, RefusesWhatDoesNotCompileOrNeverEnds) {
  EXPECT_THAT(error_of([] { Regex("a(b", "file.json"); }), IsError(ErrorKind::input, "file.json"));
  const Regex regex("^(a|aa)+$", "file.json");
  Regex::Matcher matcher(regex);
  const auto text = std::string(100, 'a') + "b";
  std::size_t begin = 0;
  std::size_t end = 0;
  EXPECT_THAT(error_of([&] { matcher.find(text, 0, begin, end); }),
              IsError(ErrorKind::input, "file.json"));
}

}  // namespace
}  // namespace gsa::test
