#pragma once

#include "train_options.h"

namespace gsa::apps {

/// Trains as the options say and writes the result; the exit code.
int run_training(const TrainArgs& args);

}  // namespace gsa::apps
