#pragma once

#include "command.h"

namespace gsa::apps {

/// `gsa train merge`.
Command add_train_merge(CLI::App& app);

}  // namespace gsa::apps
