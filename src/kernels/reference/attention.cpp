#include "kernels/reference/attention.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

namespace gsa::kernels::reference {

double attend(std::span<const float> q, std::span<const float* const> keys,
              std::span<const float* const> values, double scale, std::span<float> out) {
  std::vector<double> scores;
  double peak = -std::numeric_limits<double>::infinity();
  for (const float* key : keys) {
    scores.push_back(scale * std::inner_product(q.begin(), q.end(), key, 0.0));
    peak = std::max(peak, scores.back());
  }
  double sum = 0;
  for (const double score : scores) sum += std::exp(score - peak);

  std::vector<double> total(q.size(), 0.0);
  for (std::size_t j = 0; j < values.size(); ++j) {
    const double p = std::exp(scores[j] - peak) / sum;
    for (std::size_t i = 0; i < total.size(); ++i) total[i] += p * values[j][i];
  }
  std::copy(total.begin(), total.end(), out.begin());
  return peak + std::log(sum);
}

}  // namespace gsa::kernels::reference
