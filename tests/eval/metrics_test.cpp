#include "eval/metrics.h"

#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "core/rng.h"
#include "core/text_file.h"
#include "eval/statistics.h"
#include "support/errors.h"

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

TEST(Metrics, EqualThePublishedImplementations) {
  const auto file =
      core::TextFile::open(std::filesystem::path(GSA_TEST_DATA_DIR) / "metrics" / "cases.jsonl");
  core::RecordReader reader(file);
  std::map<Metric, int> num_cases;
  for (nlohmann::json row; reader.next(row);) {
    const auto metric = metric_by_name(row["metric"].get<std::string>(), reader.where());
    const auto answers = row["answers"].get<std::vector<std::string>>();
    const auto classes = row.value("classes", std::vector<std::string>());
    const auto prediction = row["prediction"].get<std::string>();
    EXPECT_NEAR(score(metric, prediction, answers, classes), row["score"].get<double>(), 1e-9)
        << reader.where() << ": " << row.dump();
    ++num_cases[metric];
  }
  EXPECT_EQ(num_cases.size(), 11U) << "every metric but `found`";
  for (const auto& [metric, count] : num_cases) EXPECT_GE(count, 10) << metric_name(metric);
}

TEST(Metrics, FoundIsTheShareOfAllAnswers) {
  const std::vector<std::string> answers = {"12", "34", "Blue"};
  EXPECT_EQ(score(Metric::found, "34, BLUE and 12", answers), 1);
  EXPECT_EQ(score(Metric::found, "34 and 56", answers), 1.0 / 3);
  EXPECT_EQ(score(Metric::found, "", answers), 0);
}

TEST(Metrics, HaveNames) {
  EXPECT_EQ(metric_by_name("rouge_l_zh", "x"), Metric::rouge_l_zh);
  EXPECT_EQ(metric_name(Metric::code_similarity), "code_similarity");
  EXPECT_THAT(test::error_of([] { metric_by_name("bleu", "f.json"); }),
              test::IsError(ErrorKind::input,
                            "f.json: there is no metric 'bleu': use one of qa_f1, qa_f1_zh"));
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
