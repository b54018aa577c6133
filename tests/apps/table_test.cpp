#include "table.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "terminal.h"

namespace gsa::apps {
namespace {

using testing::ElementsAre;
using enum Table::Align;

std::vector<std::string> lines_of(const std::string& text) {
  std::istringstream stream(text);
  std::vector<std::string> lines;
  for (std::string line; std::getline(stream, line);) lines.push_back(line);
  return lines;
}

TEST(Wrap, BreaksBetweenWords) {
  EXPECT_THAT(wrap("one two three", 7), ElementsAre("one two", "three"));
  EXPECT_THAT(wrap("one two", 80), ElementsAre("one two"));
  EXPECT_THAT(wrap("", 5), ElementsAre(""));
}

TEST(Wrap, KeepsLineFeeds) { EXPECT_THAT(wrap("a\n\nb", 5), ElementsAre("a", "", "b")); }

TEST(Wrap, CutsWordsThatAreTooLongBetweenCharacters) {
  EXPECT_THAT(wrap("abcdefg", 3), ElementsAre("abc", "def", "g"));
  EXPECT_THAT(wrap("日本語", 4), ElementsAre("日本", "語"));
  EXPECT_THAT(wrap("日本", 1), ElementsAre("日", "本"));  // narrower than a character: one each
}

TEST(Wrap, LosesNoWordAndStaysInWidth) {
  std::mt19937 rng(1);
  for (int trial = 0; trial < 500; ++trial) {
    std::string text;
    const auto num_words = rng() % 20;
    for (unsigned i = 0; i < num_words; ++i)
      text += (i == 0 ? "" : std::string(1 + rng() % 2, ' ')) +
              std::string(1 + rng() % 6, 'a' + rng() % 26);
    const std::size_t width = 6 + rng() % 20;
    std::string joined;
    for (const std::string& line : wrap(text, width)) {
      EXPECT_LE(display_width(line), width);
      joined += line + ' ';
    }
    std::istringstream expected(text), actual(joined);
    std::string expected_word, actual_word;
    while (expected >> expected_word) {
      ASSERT_TRUE(actual >> actual_word) << text;
      EXPECT_EQ(actual_word, expected_word) << text;
    }
    EXPECT_FALSE(actual >> actual_word) << text;
  }
}

TEST(Table, AlignsColumns) {
  Table table({{"name", left}, {"count", right}, {"note", left}});
  table.add_row({"full", "1", "x"});
  table.add_row({"日本", "1,234", ""});
  EXPECT_THAT(lines_of(table.to_string(80)), ElementsAre("name  count  note",  //
                                                         "-----------------",  //
                                                         "full      1  x",     //
                                                         "日本  1,234"));
}

TEST(Table, WrapsTheLastColumnAndHeadings) {
  Table table({{"a", left}, {"answer", left}});
  table.add_heading("a question of several words");
  table.add_row({"x", "one two three four five six seven eight"});
  const auto lines = lines_of(table.to_string(27));
  EXPECT_THAT(lines, ElementsAre("a  answer",                    //
                                 "---------------------------",  //
                                 "a question of several words",  //
                                 "x  one two three four five",   //
                                 "   six seven eight"));
}

TEST(BriefPolicy, ShrinksLongListsOfLayers) {
  const std::string list = "1/0.375*13/4/0.375*2";
  for (const auto& [name, brief] : std::vector<std::pair<std::string, std::string>>{
           {"", ""},
           {"gsa@16:route=both", "gsa@16:route=both"},
           {"gsa@16:layers=1/0.5*13/2:sinks=0", "gsa@16:layers=1/0.5*13/2:sinks=0"},
           {"gsa@16:layers=" + list, "gsa@16:layers=..."},
           {"gsa@8:layers=" + list + ":sinks=0", "gsa@8:layers=...:sinks=0"},
           {"quest@16:match=gsa@8:layers=" + list + ":adapter=a",
            "quest@16:match=gsa@8:layers=...:adapter=a"},
           {"gsa@8:layers=" + list + ":match=gsa@8:layers=" + list,
            "gsa@8:layers=...:match=gsa@8:layers=..."}})
    EXPECT_EQ(brief_policy(name), brief);
}

}  // namespace
}  // namespace gsa::apps
