#pragma once

#include "command.h"

namespace gsa::apps {

/// `gsa train layers`.
Command add_train_layers(CLI::App& app);

}  // namespace gsa::apps
