#include "engine/stop_filter.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "core/rng.h"
#include "gsa/error.h"

namespace gsa::engine {
namespace {

/// Text before the stop string that is complete first (the longer one if two are complete at once).
std::string cut_at_first_stop(const std::string& text, const std::vector<std::string>& stops) {
  for (std::size_t end = 1; end <= text.size(); ++end) {
    std::size_t begin = std::string::npos;
    for (const std::string& stop : stops) {
      if (text.substr(0, end).ends_with(stop)) begin = std::min(begin, end - stop.size());
    }
    if (begin != std::string::npos) return text.substr(0, begin);
  }
  return text;
}

std::string random_string(core::Rng& rng, std::uint32_t max_len) {
  std::string text(1 + rng.below(max_len), 'a');
  for (char& c : text) c = static_cast<char>('a' + rng.below(2));
  return text;
}

TEST(StopFilter, CutsTheSameHoweverTheTextArrives) {
  core::Rng rng(1);
  for (int round = 0; round < 5000; ++round) {
    std::vector<std::string> stops(rng.below(4));
    for (auto& stop : stops) stop = random_string(rng, 6);
    const std::string text = random_string(rng, 30);
    const std::string expected = cut_at_first_stop(text, stops);

    StopFilter filter(stops);
    std::string actual;
    for (std::size_t begin = 0; begin < text.size();) {
      const std::size_t len = rng.below(5);
      actual += filter.push(std::string_view(text).substr(begin, len));
      begin += len;
      ASSERT_TRUE(expected.starts_with(actual)) << "part of a stop string leaked";
    }
    const bool has_stopped = filter.has_stopped();
    actual += filter.finish();
    ASSERT_EQ(actual, expected) << text;
    ASSERT_EQ(has_stopped, expected != text);
  }
}

TEST(StopFilter, HoldsBackOnlyWhatMayBecomeAStopString) {
  StopFilter filter({"\n\nUser:"});
  EXPECT_EQ(filter.push("Paris."), "Paris.");
  EXPECT_EQ(filter.push("\n"), "");
  EXPECT_EQ(filter.push("It"), "\nIt");
  EXPECT_EQ(filter.push(" is\n\nUs"), " is");
  EXPECT_EQ(filter.push("er: "), "");
  EXPECT_TRUE(filter.has_stopped());
  EXPECT_EQ(filter.push("more"), "");
}

TEST(StopFilter, RefusesAnEmptyStopString) { EXPECT_THROW(StopFilter({"a", ""}), Error); }

}  // namespace
}  // namespace gsa::engine
