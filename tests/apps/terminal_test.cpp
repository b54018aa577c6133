#include "terminal.h"

#include <gtest/gtest.h>

#include "progress.h"

namespace gsa::apps {
namespace {

TEST(DisplayWidth, CountsColumnsNotBytes) {
  EXPECT_EQ(display_width("abc"), 3U);
  EXPECT_EQ(display_width("naïve"), 5U);
  EXPECT_EQ(display_width("日本"), 4U);
  EXPECT_EQ(display_width("e\u0301"), 1U);  // combining accent
  EXPECT_EQ(display_width("\xFF"), 1U);     // ill-formed: shown as U+FFFD
}

TEST(ControlCharacters, CannotReachTheTerminal) {
  EXPECT_EQ(without_control_characters("a\x1B[2Jb\r"), "a\uFFFD[2Jb\uFFFD");
  EXPECT_EQ(without_control_characters("\u009B31m"), "\uFFFD31m");  // one-character escape sequence
  EXPECT_EQ(without_control_characters("tab\tline\n日本"), "tab line\n日本");
}

TEST(ProgressLine, GrowsFromEmptyToFull) {
  EXPECT_EQ(progress_line("full", 0, 0, -1), "full ...");
  const std::string begin = progress_line("full", 0, 2000, -1);
  EXPECT_NE(begin.find("[............................] 0/2,000 tokens"), std::string::npos)
      << begin;
  EXPECT_EQ(begin.find("left"), std::string::npos);
  const std::string half = progress_line("full", 1000, 2000, 3);
  EXPECT_NE(half.find("[##############..............]"), std::string::npos) << half;
  EXPECT_NE(half.find("3 s left"), std::string::npos);
  const std::string end = progress_line("full", 2000, 2000, 0);
  EXPECT_EQ(end.find('.'), std::string::npos) << end;
}

TEST(ProgressLine, IsWrittenRarelyWhereThereIsNoTerminal) {
  using namespace std::chrono_literals;
  EXPECT_FALSE(is_line_due(100, 100, 4s)) << "short work";
  EXPECT_TRUE(is_line_due(10, 100, 5s));
  EXPECT_FALSE(is_line_due(9, 100, 59s));
  EXPECT_TRUE(is_line_due(0, 100, 60s)) << "a sign of life";
}

}  // namespace
}  // namespace gsa::apps
