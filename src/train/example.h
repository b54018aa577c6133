#pragma once

#include <cstdint>
#include <vector>

namespace gsa::train {

/// A continuation of a context: a question with its answer. It sees the context, not the other
/// suffixes of the row.
struct Suffix {
  std::vector<std::int32_t> tokens;
  std::int64_t num_prompt = 0;  ///< loss on tokens[num_prompt..]
};

/// One row of training data, before its layout.
struct Example {
  std::vector<std::vector<std::int32_t>> pieces;  ///< documents of the context, in order
  std::vector<Suffix> suffixes;                   ///< empty: loss on the context itself (cpt)
};

}  // namespace gsa::train
