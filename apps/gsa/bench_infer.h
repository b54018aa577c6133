#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "attention/policy.h"
#include "engine/session.h"
#include "options.h"
#include "samples.h"

namespace gsa::apps {

/// How reading a context and answering behind it are timed.
struct BenchInferArgs {
  enum class Task { prefill, decode };
  enum class Store {
    automatic,  ///< read up to the window the model was trained for, random above
    read,       ///< as the model computes it
    random,     ///< filled with random keys and values
  };

  ModelArgs model;
  Task task = Task::decode;
  Store store = Store::automatic;  ///< what decode finds behind it
  std::vector<std::int64_t> contexts;
  std::vector<attention::PolicySpec> policies;
  std::int64_t segment_len = engine::SessionOptions{}.segment_len;
  int num_reps = 1;
  std::int64_t num_tokens = 32;  ///< decode: timed per repetition
  bool is_cold = false;          ///< decode: caches are emptied before every token
  std::uint64_t seed = 1;
  bool is_json = false;
  bool is_quiet = false;
};

/// Repetitions of one policy at one length.
struct InferTimes {
  std::string policy;
  std::int64_t context = 0;
  bool has_random_store = false;
  Samples ms_per_token;
  double fraction_read = 0;
  double weight_bytes_per_token = 0, kv_bytes_per_token = 0;  ///< decode: read per step
  double flops_per_token = 0;                                 ///< prefill: see `prefill_flops`
  std::int64_t store_bytes = 0;
  /// Of the process, without the stores of other policies.
  std::int64_t peak_memory_bytes = 0;

  double bytes_per_token() const { return weight_bytes_per_token + kv_bytes_per_token; }
  double per_second(double amount_per_token) const {
    return amount_per_token / (ms_per_token.median() / 1000);
  }
};

/// What the machine reaches with the threads that are set.
struct MachineSpeed {
  double stream_bytes_per_second = 0;
  double peak_flops = 0;
};

/// What stands around the rows.
struct InferHeader {
  std::string dtype, device;
  int num_threads = 0;
  double load_seconds = 0;
  std::int64_t load_peak_memory_bytes = 0;
  MachineSpeed machine;
};

/// The name of a task.
const char* task_name(BenchInferArgs::Task task);

/// One JSON object, and a table for people.
std::string to_json(const BenchInferArgs& args, const InferHeader& header,
                    const std::vector<InferTimes>& results);
std::string to_table(const BenchInferArgs& args, const InferHeader& header,
                     const std::vector<InferTimes>& results);

/// Times every policy at every length and prints the result. Resource error before the first
/// measurement if a context does not fit the memory that is free; input error for a policy that
/// needs its context read where it would be random.
int run_bench_infer(const BenchInferArgs& args);

}  // namespace gsa::apps
