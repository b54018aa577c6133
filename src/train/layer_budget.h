#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

namespace gsa::train {

/// What budgets by layer were tried, and the best of them. Losses are in nats per label.
struct LayerBudget {
  struct Candidate {
    std::int64_t num_favoured = 0;  ///< layers that have more than their share
    double factor = 1;              ///< how much more
    std::vector<double> shares;     ///< per layer; layer 0 does not select and keeps 1
    double loss = 0;
    double cost = 1;  ///< chunks that searches may keep, times those of an even budget
  };

  /// Budgets are whole chunks, at least one, so equal sums of shares do not cost the same.
  static constexpr double kMostCost = 1.03;

  double even_loss = 0;               ///< every layer has the same budget
  std::vector<double> gains;          ///< per layer: how much twice its budget lowers the loss
  std::vector<Candidate> candidates;  ///< their shares have the sum of an even budget

  /// The candidate with the least loss among those that cost at most `kMostCost`; nullptr if none
  /// is below `even_loss`.
  const Candidate* best() const;
};

/// Finds which layers of a model need a larger share of the budget (PolicySpec::layer_shares).
/// `loss_of` gives the loss of training rows under shares of `num_layers` layers; it is called
/// once per layer and candidate; `chunks_of` gives how many chunks the searches may keep. Input
/// error for a model of fewer than two layers.
LayerBudget find_layer_budget(const std::function<double(std::span<const double>)>& loss_of,
                              const std::function<double(std::span<const double>)>& chunks_of,
                              std::int64_t num_layers);

/// How often `find_layer_budget` asks for a loss.
std::int64_t num_layer_budgets(std::int64_t num_layers);

/// Shares that give the `num_favoured` layers with the largest gains `factor` times an even budget
/// and the others, layer 0 aside, equal parts of the rest, so that the total stays; in thousandths.
/// `factor * num_favoured` is less than the number of layers behind the first.
std::vector<double> favouring_shares(std::span<const double> gains, std::int64_t num_favoured,
                                     double factor);

}  // namespace gsa::train
