#include "train/layer_budget.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/error.h"

namespace gsa::train {
namespace {

constexpr double kProbe = 2;      // times the even budget
constexpr double kMinRest = 0.1;  // of an even budget, for layers that are not favoured
// Shares of the layers that are favoured, and by how much.
constexpr double kFavoured[] = {0.1, 0.17, 0.34};
constexpr double kFactors[] = {1.5, 2, 2.5, 3, 4, 5, 6, 8};

struct Favour {
  std::int64_t num_layers;
  double factor;
};

std::vector<Favour> favours(std::int64_t num_selecting) {
  std::vector<Favour> all;
  std::int64_t previous = 0;
  for (const double part : kFavoured) {
    const auto count =
        std::max<std::int64_t>(1, std::llround(part * static_cast<double>(num_selecting)));
    if (count == previous) continue;
    previous = count;
    for (const double factor : kFactors) {
      const double rest = static_cast<double>(num_selecting) - factor * static_cast<double>(count);
      if (rest >= kMinRest * static_cast<double>(num_selecting - count) && rest > 0)
        all.push_back({count, factor});
    }
  }
  return all;
}

}  // namespace

const LayerBudget::Candidate* LayerBudget::best() const {
  const Candidate* best = nullptr;
  for (const Candidate& candidate : candidates) {
    if (candidate.cost <= kMostCost && candidate.loss < (best ? best->loss : even_loss))
      best = &candidate;
  }
  return best;
}

std::vector<double> favouring_shares(std::span<const double> gains, std::int64_t num_favoured,
                                     double factor) {
  const std::int64_t num_selecting = std::ssize(gains) - 1;
  std::vector<std::int64_t> order(num_selecting);
  std::iota(order.begin(), order.end(), 1);
  std::ranges::stable_sort(order, std::ranges::greater(),
                           [&](std::int64_t layer) { return gains[layer]; });
  const double rest =
      (static_cast<double>(num_selecting) - factor * static_cast<double>(num_favoured)) /
      static_cast<double>(num_selecting - num_favoured);
  constexpr double kSteps = 1000;
  std::vector<double> shares(gains.size(), std::round(rest * kSteps) / kSteps);
  shares[0] = 1;
  for (std::int64_t i = 0; i < num_favoured; ++i) shares[order[i]] = factor;
  return shares;
}

std::int64_t num_layer_budgets(std::int64_t num_layers) {
  return num_layers + std::ssize(favours(num_layers - 1));
}

LayerBudget find_layer_budget(const std::function<double(std::span<const double>)>& loss_of,
                              const std::function<double(std::span<const double>)>& chunks_of,
                              std::int64_t num_layers) {
  if (num_layers < 2)
    core::input_error("train layers: a model of {} layers has none that selects", num_layers);
  LayerBudget result;
  std::vector<double> shares(num_layers, 1);
  result.even_loss = loss_of(shares);
  const double even_chunks = chunks_of(shares);
  result.gains.assign(num_layers, 0);
  for (std::int64_t layer = 1; layer < num_layers; ++layer) {
    shares[layer] = kProbe;
    result.gains[layer] = result.even_loss - loss_of(shares);
    shares[layer] = 1;
  }
  for (const auto& [count, factor] : favours(num_layers - 1)) {
    LayerBudget::Candidate candidate{count, factor, favouring_shares(result.gains, count, factor)};
    candidate.loss = loss_of(candidate.shares);
    candidate.cost = chunks_of(candidate.shares) / even_chunks;
    result.candidates.push_back(std::move(candidate));
  }
  return result;
}

}  // namespace gsa::train
