#pragma once

#include <cstdint>

#include "attention/layout.h"
#include "train/example.h"

namespace gsa::train {

/// What the trainer asks of a data set for one row of one step.
struct RowRequest {
  attention::LayoutOptions layout;  ///< of this row; no chunk sizes: full attention
  std::int64_t max_tokens = 0;      ///< raw tokens and gists of the context together
  std::uint64_t seed = 0;
  std::int64_t index = 0;  ///< number of the row in the run
};

/// A data set that gives training rows. `row` is a pure function of the request, so a resumed run
/// or another number of workers sees the same rows; it may be called from several threads.
class Sampler {
 public:
  virtual ~Sampler() = default;
  virtual Example row(const RowRequest& request) const = 0;
};

}  // namespace gsa::train
