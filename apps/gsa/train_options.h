#pragma once

#include <c10/core/ScalarType.h>

#include <CLI/App.hpp>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "model/adapter.h"
#include "options.h"
#include "train/ft_sampler.h"
#include "train/parameters.h"
#include "train/shard.h"
#include "train/trainer.h"

namespace gsa::apps {

/// What the user gave to `gsa train cpt` or `gsa train ft`.
struct TrainArgs {
  train::DataKind stage = train::DataKind::cpt;
  ModelArgs model;
  std::string data, text, init, teacher, out, validation;
  bool resumes = false;

  std::int64_t num_steps = 0, rows = 8, micro_batches = 1, row_len = 4608;
  std::string chunks, mix, policy_keys;
  double text_rows = train::FtSamplerOptions{}.book_rows;
  double plain_text = train::FtSamplerOptions{}.bare_book_rows, plain_distill = 1;
  std::string made_tasks = "numbers";

  std::string trained = "lora";
  std::optional<std::int64_t> rank, num_gist_rows;
  std::optional<std::string> gist_input;
  double alpha = 0;
  std::optional<std::string> targets;

  std::optional<double> lr, gist_lr;
  double weight_decay = 0, warmup = 0.05, clip = 1, max_spike = 3, distill = 0, plain_view = 0;
  double routing = 0;
  std::uint64_t seed = 0;

  std::string eval_chunks = "full,8,16,32,4-4";
  std::int64_t eval_every = 0, eval_windows = 30, eval_len = 4096, eval_labels = 1024;

  double save_minutes = 5;
  std::string adapter_dtype = "bf16";
  int num_loader_threads = 2;
  bool recomputes = false, is_deterministic = false, is_json = false, is_quiet = false;
};

/// Adds an option for the type of what is written to a file: bf16, f16 or f32.
CLI::Option* add_file_dtype_option(CLI::App& app, const char* name, std::string& dtype,
                                   const char* what);
at::ScalarType parse_file_dtype(std::string_view name);

/// Adds the options of a stage, with its defaults.
void add_train_options(CLI::App& app, TrainArgs& args);

/// What trains: rank, targets, gist rows and gist input that were not given follow from the adapter
/// to go on from. Input error for a name that is not known, and for what contradicts that adapter.
train::ParameterOptions make_parameter_options(const TrainArgs& args, const model::Adapter* init);

/// Everything the trainer wants to know except the recipe. Input error for chunk sizes or keys that
/// make no policy.
train::TrainOptions make_train_options(const TrainArgs& args);

/// What the rows of `gsa train ft` hold. Input error for rows of text without a text.
train::FtSamplerOptions make_sampler_options(const TrainArgs& args);

/// The options that make the result, in one line: `cpt steps=700 rows=8 ...`. What may change when
/// a run is resumed (threads, workers, device, saving) is no part of it. `teacher_digest`: SHA-256
/// of the teacher's adapter, empty without one.
std::string make_recipe(const TrainArgs& args, const train::TrainOptions& options,
                        const train::ParameterOptions& parameters, at::ScalarType dtype,
                        const std::string& teacher_digest);

/// Takes the policy keys that `init` was trained for, unless the run gives some of its own (budgets
/// aside).
void inherit_policy_keys(TrainArgs& args, const model::Adapter& init);

/// Chunk sizes that an adapter has seen: those of `init`, then new ones in order.
std::vector<attention::ChunkSizes> chunk_sizes_seen(const train::TrainOptions& options,
                                                    const model::Adapter* init);

}  // namespace gsa::apps
