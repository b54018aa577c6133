#pragma once

#include "command.h"

namespace gsa::apps {

/// `gsa train plot`.
Command add_train_plot(CLI::App& app);

}  // namespace gsa::apps
