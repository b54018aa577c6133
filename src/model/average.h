#pragma once

#include <cstdint>
#include <span>

#include "model/adapter.h"

namespace gsa::model {

struct AverageAdapter {
  Adapter adapter;
  double lost = 0;  ///< share of the squared norm of the mean updates that the rank leaves out
};

/// The mean of adapters that were trained from a common start: of their gist embeddings, and of
/// their low-rank updates (the products, not the factors), cut back to `rank` by singular values.
/// Often better than each of them ("model soups", Wortsman et al. 2022, arXiv 2203.05482).
///
/// `rank` 0: that of the first. Policy keys are those of the first; chunk sizes those that any has
/// seen. Input error, which counts the adapters from 1, for fewer than two, if one differs from the
/// first in its base, in what its gists are or in the matrices that it updates, or if `rank` is
/// above the sum of their ranks.
AverageAdapter average_adapters(std::span<const Adapter> adapters, std::int64_t rank = 0);

}  // namespace gsa::model
