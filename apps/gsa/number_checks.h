#pragma once

#include <CLI/App.hpp>
#include <cstdint>
#include <limits>

namespace gsa::apps {

/// Checks of options that are numbers. Their errors and the help name the bounds as a user writes
/// them; neither NaN nor infinity passes.
CLI::Validator above_zero();
CLI::Validator zero_or_more();
CLI::Validator between(double least, double most);

/// Of options that are whole numbers.
CLI::Validator whole_number(std::int64_t least,
                            std::int64_t most = std::numeric_limits<std::int64_t>::max());

}  // namespace gsa::apps
