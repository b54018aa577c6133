#include "train/layer_budget.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <span>
#include <vector>

#include "support/errors.h"

namespace gsa::train {
namespace {

double sum_of(std::span<const double> shares) {
  return std::accumulate(shares.begin(), shares.end(), 0.0);
}

/// A loss that falls with the budget of every layer, as its need says.
auto loss_of(std::vector<double> needs, int* num_calls = nullptr) {
  return [needs = std::move(needs), num_calls](std::span<const double> shares) {
    if (num_calls != nullptr) ++*num_calls;
    EXPECT_EQ(shares.size(), needs.size());
    double sum = 0;
    for (std::size_t i = 0; i < needs.size(); ++i) sum += needs[i] / (0.1 + shares[i]);
    return sum;
  };
}

TEST(LayerBudget, FavoursLayersThatNeedIt) {
  std::vector<double> needs(30, 0.01);
  needs[0] = 1;  // it does not select, whatever it needs
  needs[7] = needs[18] = 50;
  needs[23] = 30;
  int num_calls = 0;
  const LayerBudget result = find_layer_budget(loss_of(needs, &num_calls), sum_of, 30);
  EXPECT_EQ(num_calls, num_layer_budgets(30));
  EXPECT_EQ(result.gains[0], 0);
  EXPECT_GT(result.gains[23], result.gains[1]);
  const auto* best = result.best();
  ASSERT_NE(best, nullptr);
  EXPECT_EQ(best->num_favoured, 3);
  EXPECT_LT(best->loss, result.even_loss / 3);
  for (const auto& candidate : result.candidates) {
    EXPECT_EQ(candidate.shares[0], 1);
    EXPECT_GE(candidate.loss, best->loss);
    EXPECT_NEAR(sum_of(candidate.shares), 30, 0.02);
    EXPECT_NEAR(candidate.cost, 1, 0.001);
    for (const double share : candidate.shares) EXPECT_GT(share, 0);
  }
  for (const int layer : {7, 18, 23}) EXPECT_EQ(best->shares[layer], best->factor);
}

TEST(LayerBudget, TakesNoneThatReadsMore) {
  std::vector<double> needs(30, 0.01);
  needs[7] = needs[18] = 50;
  // Whole chunks, two of them evenly: more than twice that only by reading more.
  const auto chunks_of = [](std::span<const double> shares) {
    double sum = 0;
    for (const double share : shares) sum += std::max(1.0, std::round(2 * share));
    return sum;
  };
  const LayerBudget result = find_layer_budget(loss_of(needs), chunks_of, 30);
  const auto* best = result.best();
  ASSERT_NE(best, nullptr);
  EXPECT_LE(best->cost, LayerBudget::kMostCost);
  EXPECT_TRUE(std::ranges::any_of(result.candidates, [&](const auto& candidate) {
    return candidate.cost > LayerBudget::kMostCost && candidate.loss < best->loss;
  }));
}

TEST(LayerBudget, KeepsAnEvenOneWhereNoneIsBetter) {
  const LayerBudget result = find_layer_budget(loss_of(std::vector<double>(12, 1)), sum_of, 12);
  EXPECT_FALSE(result.candidates.empty());
  EXPECT_EQ(result.best(), nullptr);
}

TEST(LayerBudget, SmallModels) {
  for (std::int64_t num_layers = 2; num_layers < 8; ++num_layers) {
    int num_calls = 0;
    const std::vector<double> needs(num_layers, 1);
    const LayerBudget result = find_layer_budget(loss_of(needs, &num_calls), sum_of, num_layers);
    EXPECT_EQ(num_calls, num_layer_budgets(num_layers));
    EXPECT_EQ(std::ssize(result.gains), num_layers);
  }
  EXPECT_THAT(test::error_of([] { find_layer_budget(loss_of({1}), sum_of, 1); }),
              test::IsError(ErrorKind::input, "1 layers"));
}

TEST(LayerBudget, SharesKeepTheTotal) {
  const std::vector<double> gains = {9, 0.1, 0.3, 0.2, 0};
  EXPECT_EQ(favouring_shares(gains, 1, 2), (std::vector<double>{1, 0.667, 2, 0.667, 0.667}));
  EXPECT_EQ(favouring_shares(gains, 2, 1.5), (std::vector<double>{1, 0.5, 1.5, 1.5, 0.5}));
}

}  // namespace
}  // namespace gsa::train
