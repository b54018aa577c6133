#pragma once

#include "command.h"

namespace gsa::apps {

/// `prepare cpt` and `prepare ft`: adds both subcommands to `app`.
Command add_train_prepare(CLI::App& app);

}  // namespace gsa::apps
