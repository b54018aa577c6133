#pragma once

#include "command.h"

namespace gsa::apps {

/// `gsa train average`.
Command add_train_average(CLI::App& app);

}  // namespace gsa::apps
