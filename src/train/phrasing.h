#pragma once

#include <array>
#include <cstdint>

#include "core/rng.h"

namespace gsa::train {

/// A way to say a made-up fact, with ways to ask for it; {0} is the name, {1} the answer.
struct Phrasing {
  const char* sentence;
  std::array<const char*, 2> questions;
};

/// Uniform in [low, high].
template <typename Int>
Int draw_between(Int low, Int high, core::Rng& rng) {
  return low + static_cast<Int>(rng.below(static_cast<std::uint32_t>(high - low + 1)));
}

}  // namespace gsa::train
