#include "eval/metrics.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "core/rng.h"
#include "eval/summary.h"

namespace gsa::eval {
namespace {

TEST(Metrics, NormalizesAsSquadDoes) {
  EXPECT_EQ(normalize_answer("The  Eiffel-Tower, in Paris!"), "eiffeltower in paris");
  EXPECT_EQ(normalize_answer("a an the"), "");
  EXPECT_EQ(normalize_answer("Theatre"), "theatre");
  EXPECT_EQ(normalize_answer("\tBj\xC3\xB6rk\n"), "bj\xC3\xB6rk");
}

struct Case {
  const char* prediction;
  std::vector<std::string> answers;
  double exact_match, f1, contains;
};

TEST(Metrics, OfPairsWorkedOutByHand) {
  const std::vector<Case> cases = {
      {"Paris", {"paris"}, 1, 1, 1},
      {"in Paris", {"Paris"}, 0, 2.0 / 3, 1},
      {"Paris", {"the city of Paris"}, 0, 0.5, 0},         // precision 1, recall 1 / 3
      {"red red blue", {"red blue blue"}, 0, 2.0 / 3, 0},  // one red and one blue in common
      {"London", {"Paris", "London town"}, 0, 2.0 / 3, 0},
      {"", {"Paris"}, 0, 0, 0},
      {"The", {"a"}, 1, 1, 1},  // both are nothing once normalised
      {"1912 and later", {"191"}, 0, 0, 0},
  };
  for (const Case& c : cases) {
    const QaScores scores = score_qa(c.prediction, c.answers);
    EXPECT_EQ(scores.exact_match, c.exact_match) << c.prediction;
    EXPECT_NEAR(scores.f1, c.f1, 1e-12) << c.prediction;
    EXPECT_EQ(scores.contains, c.contains) << c.prediction;
  }
}

TEST(Bootstrap, IntervalIsThatOfTheNormalForManyValues) {
  core::Rng rng(4);
  std::vector<double> values(3000);
  for (double& value : values) value = rng.below(4) == 0 ? 1 : 0;
  const Interval interval = bootstrap(values);
  const double width = 1.96 * std::sqrt(0.25 * 0.75 / 3000);
  EXPECT_NEAR(interval.mean, 0.25, 3 * width);
  EXPECT_NEAR(interval.high - interval.mean, width, 0.15 * width);
  EXPECT_NEAR(interval.mean - interval.low, width, 0.15 * width);
  EXPECT_EQ(bootstrap(values).low, interval.low);
}

}  // namespace
}  // namespace gsa::eval
