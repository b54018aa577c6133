#include "core/display.h"

#include <gtest/gtest.h>

namespace gsa::core {
namespace {

using namespace std::string_view_literals;

TEST(Display, Bytes) {
  EXPECT_EQ(format_bytes(0), "0 B");
  EXPECT_EQ(format_bytes(999), "999 B");
  EXPECT_EQ(format_bytes(23040), "23 kB");
  EXPECT_EQ(format_bytes(999'999), "1 MB");
  EXPECT_EQ(format_bytes(1.55e9), "1.55 GB");
}

TEST(Display, Counts) {
  EXPECT_EQ(format_count(0), "0");
  EXPECT_EQ(format_count(999), "999");
  EXPECT_EQ(format_count(7120), "7,120");
  EXPECT_EQ(format_count(1234567), "1,234,567");
  EXPECT_EQ(format_count(-123456), "-123,456");
}

TEST(Display, Percent) { EXPECT_EQ(format_percent(0.1234), "12.3 %"); }

TEST(Display, Markup) {
  EXPECT_EQ(escape_markup(""), "");
  EXPECT_EQ(escape_markup("é日本\n\tplain"), "é日本\n\tplain");
  EXPECT_EQ(escape_markup("<b a=\"x\" c='y'>&amp;</b>"),
            "&lt;b a=&quot;x&quot; c=&#39;y&#39;&gt;&amp;amp;&lt;/b&gt;");
  EXPECT_EQ(escape_markup("\0\x1b\r\x7f"sv), "\uFFFD\uFFFD\uFFFD\uFFFD");
}

}  // namespace
}  // namespace gsa::core
