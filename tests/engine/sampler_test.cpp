#include "engine/sampler.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <vector>

#include "core/rng.h"
#include "gsa/error.h"

namespace gsa::engine {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

/// The definition, step by step with a full sort: probabilities by id, 0 for filtered tokens.
std::map<std::int32_t, double> brute_force(std::vector<float> logits,
                                           const SamplingOptions& options,
                                           const std::vector<std::int32_t>& seen) {
  std::vector<double> scores(logits.begin(), logits.end());
  for (std::size_t id = 0; id < scores.size(); ++id) {
    if (std::find(seen.begin(), seen.end(), static_cast<std::int32_t>(id)) == seen.end()) continue;
    const auto penalty = static_cast<float>(options.repetition_penalty);
    scores[id] = logits[id] > 0 ? logits[id] / penalty : logits[id] * penalty;
  }
  std::vector<std::int32_t> order(scores.size());
  for (std::size_t id = 0; id < order.size(); ++id) order[id] = static_cast<std::int32_t>(id);
  std::stable_sort(order.begin(), order.end(),
                   [&](auto a, auto b) { return scores[a] > scores[b]; });
  if (options.top_k > 0 && options.top_k < static_cast<std::int64_t>(order.size()))
    order.resize(options.top_k);

  std::map<std::int32_t, double> result;
  const auto normalise = [&] {
    double sum = 0;
    for (const auto& [id, p] : result) sum += p;
    for (auto& [id, p] : result) p /= sum;
  };
  for (const auto id : order)
    result[id] = std::exp((scores[id] - scores[order[0]]) / options.temperature);
  normalise();
  double mass = 0;
  for (const auto id : order) {
    if (options.top_p < 1 && mass >= options.top_p) result[id] = 0;
    mass += result[id];
  }
  const double best = result[order[0]];
  for (auto& [id, p] : result) {
    if (p < options.min_p * best) p = 0;
  }
  normalise();
  return result;
}

std::vector<float> random_logits(core::Rng& rng, std::size_t count, float spread) {
  std::vector<float> logits(count);
  for (float& logit : logits) logit = spread * (2 * rng.uniform() - 1);
  return logits;
}

TEST(Sampler, DistributionEqualsTheDefinition) {
  core::Rng rng(7);
  for (int round = 0; round < 500; ++round) {
    SamplingOptions options;
    options.temperature = 0.05 + 2 * rng.uniform();
    options.top_k = rng.below(3) == 0 ? 0 : 1 + rng.below(40);
    options.top_p = rng.below(3) == 0 ? 1 : 0.05 + 0.94 * rng.uniform();
    options.min_p = rng.below(3) == 0 ? 0 : 0.3 * rng.uniform();
    options.repetition_penalty = rng.below(2) == 0 ? 1 : 0.5 + 1.5 * rng.uniform();
    const auto logits = random_logits(rng, 1 + rng.below(1200), 1 + 10 * rng.uniform());
    std::vector<std::int32_t> seen;
    for (int i = 0; i < 5; ++i) seen.push_back(static_cast<std::int32_t>(rng.below(logits.size())));

    Sampler sampler(options);
    sampler.observe(seen);
    const auto actual = sampler.distribution(logits);
    auto expected = brute_force(logits, options, seen);
    std::erase_if(expected, [](const auto& entry) { return entry.second == 0; });

    ASSERT_EQ(actual.size(), expected.size());
    double sum = 0;
    for (const Candidate& candidate : actual) {
      ASSERT_NEAR(candidate.probability, expected[candidate.id], 1e-9);
      sum += candidate.probability;
    }
    ASSERT_NEAR(sum, 1, 1e-9);
    ASSERT_TRUE(std::is_sorted(actual.begin(), actual.end(), [](const auto& a, const auto& b) {
      return a.probability > b.probability;
    }));
  }
}

TEST(Sampler, DrawsFollowTheDistribution) {
  core::Rng rng(11);
  const auto logits = random_logits(rng, 40, 3);
  for (const double top_p : {1.0, 0.8}) {
    SamplingOptions options{.temperature = 1.3, .top_p = top_p, .seed = 5};
    Sampler sampler(options);
    const auto expected = sampler.distribution(logits);
    std::map<std::int32_t, int> counts;
    constexpr int kNumDraws = 20000;
    for (int i = 0; i < kNumDraws; ++i) ++counts[sampler.sample(logits)];
    int num_expected = 0;
    for (const auto& [id, p] : expected) {
      const double sigma = std::sqrt(kNumDraws * p * (1 - p));
      EXPECT_NEAR(counts[id], kNumDraws * p, 5 * sigma + 1) << "token " << id;
      num_expected += counts[id];
    }
    EXPECT_EQ(num_expected, kNumDraws) << "a filtered token was drawn";
  }
}

TEST(Sampler, EqualSeedsDrawEqualTokens) {
  core::Rng rng(3);
  const auto logits = random_logits(rng, 300, 2);
  const auto draw = [&](std::uint64_t seed) {
    Sampler sampler({.temperature = 1, .seed = seed});
    std::vector<std::int32_t> ids(50);
    for (auto& id : ids) id = sampler.sample(logits);
    return ids;
  };
  EXPECT_EQ(draw(1), draw(1));
  EXPECT_NE(draw(1), draw(2));
}

TEST(Sampler, GreedyTakesTheBestAndOfEqualsTheFirst) {
  Sampler sampler({});
  EXPECT_EQ(sampler.sample(std::vector<float>{-kInfinity, 2, 5, 5, 1}), 2);
  EXPECT_EQ(sampler.sample(std::vector<float>{-3, -1, -2}), 1);
}

TEST(Sampler, SampledTokensArePenalised) {
  Sampler sampler({.repetition_penalty = 2});
  const std::vector<float> logits = {3, 2, -1};
  EXPECT_EQ(sampler.sample(logits), 0);
  EXPECT_EQ(sampler.sample(logits), 1);  // 3 / 2 < 2
  EXPECT_EQ(sampler.sample(logits), 0);  // 3 / 2 > 2 / 2
}

TEST(Sampler, OneCandidateNeedsNoDraw) {
  for (const SamplingOptions& options : {SamplingOptions{.temperature = 1, .top_k = 1},
                                         SamplingOptions{.temperature = 1, .top_p = 1e-9},
                                         SamplingOptions{.temperature = 1, .min_p = 1}}) {
    EXPECT_EQ(Sampler(options).sample(std::vector<float>{0, 1, 3, 2}), 2);
  }
}

TEST(Sampler, RefusesScoresThatAreNoNumbers) {
  Sampler sampler({.temperature = 1});
  EXPECT_THROW(sampler.sample(std::vector<float>{1, std::nanf("")}), Error);
  EXPECT_THROW(sampler.sample(std::vector<float>{1, kInfinity}), Error);
  EXPECT_THROW(sampler.sample(std::vector<float>{-kInfinity, -kInfinity}), Error);
}

TEST(SamplingOptions, NamesTheOptionThatIsOutOfRange) {
  const auto message = [](const SamplingOptions& options) -> std::string {
    try {
      options.validate();
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::input);
      return error.what();
    }
    return "valid";
  };
  using testing::HasSubstr;
  EXPECT_EQ(message({}), "valid");
  EXPECT_THAT(message({.temperature = -1}), HasSubstr("temperature"));
  EXPECT_THAT(message({.temperature = std::nan("")}), HasSubstr("temperature"));
  EXPECT_THAT(message({.top_k = -2}), HasSubstr("top_k"));
  EXPECT_THAT(message({.top_p = 0}), HasSubstr("top_p"));
  EXPECT_THAT(message({.top_p = 1.5}), HasSubstr("top_p"));
  EXPECT_THAT(message({.min_p = -0.1}), HasSubstr("min_p"));
  EXPECT_THAT(message({.repetition_penalty = 0}), HasSubstr("repetition_penalty"));
}

}  // namespace
}  // namespace gsa::engine
