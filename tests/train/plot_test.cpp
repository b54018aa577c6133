#include "train/plot.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <regex>
#include <string>

#include "core/file.h"
#include "support/errors.h"
#include "support/temp_dir.h"

namespace gsa::train {
namespace {

using test::error_of;
using test::IsError;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::Pair;

int count(const std::string& text, const std::string& part) {
  int found = 0;
  for (std::size_t at = 0; (at = text.find(part, at)) != std::string::npos; ++at) ++found;
  return found;
}

/// Every tag that is opened is closed, in order; attributes are quoted.
void expect_well_formed(const std::string& svg) {
  std::vector<std::string> open;
  const std::regex tag(R"(<(/?)(\w+)((?:\s+[\w:-]+="[^"<]*")*)\s*(/?)>)");
  for (std::sregex_iterator it(svg.begin(), svg.end(), tag), end; it != end; ++it) {
    if ((*it)[1].length() > 0) {
      ASSERT_FALSE(open.empty());
      EXPECT_EQ(open.back(), (*it)[2].str());
      open.pop_back();
    } else if ((*it)[4].length() == 0) {
      open.push_back((*it)[2].str());
    }
  }
  EXPECT_TRUE(open.empty());
  EXPECT_THAT(std::regex_replace(svg, tag, ""), testing::Not(HasSubstr("<")));
}

RunCurves falling_run() {
  RunCurves run{"run <1> & co", {}, {{"full", {}}, {"4-4", {}}}};
  for (int step = 1; step <= 200; ++step)
    run.training.emplace_back(step, 3 + 4 * std::exp(-step / 20.0));
  for (int step = 0; step <= 200; step += 50) {
    run.evaluations[0].second.emplace_back(step, 3 + 4 * std::exp(-step / 20.0));
    run.evaluations[1].second.emplace_back(step, 3.5 + 4 * std::exp(-step / 20.0));
  }
  return run;
}

TEST(Plot, DrawsEveryCurveWithItsName) {
  const std::string svg = plot_svg({falling_run()});
  expect_well_formed(svg);
  EXPECT_THAT(svg, HasSubstr("run &lt;1&gt; &amp; co: training (3.0"));
  EXPECT_THAT(svg, HasSubstr("chunks 4-4 (3.500)"));
  EXPECT_EQ(count(svg, "<polyline"), 4);        // training twice: as it was, and smoothed
  EXPECT_EQ(count(svg, "<circle"), 2 * 5 + 2);  // points, and one each in the legend
  EXPECT_EQ(count(svg, "nan"), 0);
}

TEST(Plot, DrawsWithoutPointsAndWithoutSpread) {
  expect_well_formed(plot_svg({}));
  for (const double loss : {0.0, 2.0, 1e9}) {
    const std::string svg = plot_svg({{"", {{1, loss}}, {}}});
    expect_well_formed(svg);
    EXPECT_EQ(count(svg, "nan") + count(svg, "inf"), 0);
  }
}

TEST(Plot, LeavesOutWhatIsNotFinite) {
  RunCurves run = falling_run();
  run.training[50].second = NAN;
  run.evaluations[0].second[1].second = INFINITY;
  const std::string svg = plot_svg({run, run});
  expect_well_formed(svg);
  EXPECT_EQ(count(svg, "nan") + count(svg, "inf"), 0);
  EXPECT_EQ(count(svg, "<circle"), 2 * (5 + 4 + 2));
}

TEST(Plot, ReadsLogs) {
  const test::TempDir folder;
  core::write_file_atomic(folder / "log.jsonl",
                          "{\"step\":0,\"eval\":{\"full\":7.5,\"8\":8}}\n"
                          "{\"step\":1,\"loss\":7.25,\"lr\":0.1}\n"
                          "{\"step\":2,\"loss\":7,\"lr\":0.1}\n"
                          "{\"step\":2,\"loss\":6.5,\"lr\":0.1}\n"
                          "{\"step\":3,\"lo");
  const RunCurves run = read_curves(folder / "log.jsonl", "name");
  EXPECT_EQ(run.name, "name");
  EXPECT_THAT(run.training, ElementsAre(Pair(1, 7.25), Pair(2, 6.5)));
  ASSERT_EQ(run.evaluations.size(), 2u);
  EXPECT_EQ(run.evaluations[0].first, "full");  // in the order of the log
  EXPECT_THAT(run.evaluations[1].second, ElementsAre(Pair(0, 8.0)));

  core::write_file_atomic(folder / "other.txt", "no log\n[1]\n{\"step\":\"x\"}\n");
  EXPECT_THAT(error_of([&] { read_curves(folder / "other.txt", ""); }),
              IsError(ErrorKind::input, "other.txt"));
  EXPECT_THAT(error_of([&] { read_curves(folder / "none.jsonl", ""); }),
              IsError(ErrorKind::input, "none.jsonl"));
}

}  // namespace
}  // namespace gsa::train
