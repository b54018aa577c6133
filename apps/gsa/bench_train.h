#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "attention/policy.h"
#include "options.h"
#include "train/parameters.h"

namespace gsa::apps {

/// What `gsa bench train` measures.
struct BenchTrainArgs {
  ModelArgs model;
  std::vector<std::int64_t> contexts;  ///< raw tokens per row; empty: what suits the device
  std::vector<attention::PolicySpec> policies;
  std::int64_t batch_tokens = 32768;  ///< raw tokens per step; at least one row
  int num_reps = 5;
  train::ParameterOptions parameters;  ///< its seed draws the tokens, too
  bool recomputes = false, is_json = false, is_quiet = false;
};

/// Times whole training steps per policy and length and prints them. A length for which the memory
/// does not suffice is reported as such. Input error for a policy that no training row can have.
int run_bench_train(const BenchTrainArgs& args);

}  // namespace gsa::apps
