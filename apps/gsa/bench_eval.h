#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "attention/policy.h"
#include "options.h"

namespace gsa::apps {

/// What `gsa bench eval` measures.
struct BenchEvalArgs {
  ModelArgs model;
  std::string tasks;  ///< as `gsa eval` takes them
  std::int64_t num_items = 100;
  std::vector<attention::PolicySpec> policies;
  std::int64_t segment_len = 0;
  std::int64_t batch_size = 1;
  int num_reps = 1;
  std::string
      prompts_file;  ///< where to write the items' tokens for another program; empty: nowhere
  bool is_json = false, is_quiet = false;
};

/// Times the answers to all items, from texts to scores, policy by policy, and prints them. Models
/// are loaded and task files read before. Input error if there are no items.
int run_bench_eval(const BenchEvalArgs& args);

}  // namespace gsa::apps
