#pragma once

#include <CLI/App.hpp>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "engine/session.h"
#include "eval/calibration.h"
#include "eval/entrant.h"
#include "options.h"

namespace gsa::apps {

/// What the user wants of `gsa eval`.
struct EvalArgs {
  ModelArgs model;
  SessionArgs session;
  engine::GenerateOptions generate;
  std::string tasks;
  std::string policies = "full";
  std::string match;
  std::string baseline;
  std::int64_t calibration_items = 8;
  std::int64_t limit = 0;
  std::int64_t num_diagnosed = 0;  ///< items per task
  std::optional<std::int64_t> max_context;
  int num_workers = 1;
  std::int64_t batch_size = 1;
  std::string records;
  std::vector<std::string> reports;
  bool keeps_going = false;
  bool only_finished = false;
  bool lists = false;
  bool is_json = false;
  bool is_quiet = false;
};

void add_eval_options(CLI::App& app, EvalArgs& args);

/// What can be wrong before a model is loaded. Input error, or resource error for a folder that is
/// missing.
void check_eval_args(const EvalArgs& args, int num_processes);

/// Reads `--match`: shares and policies separated by commas.
std::vector<eval::MatchTarget> parse_targets(const std::string& match);

/// The policies of a run: of one that is to be matched, an entrant for every target. Input error if
/// a policy is there twice, or none is left to be matched.
std::vector<eval::Entrant> make_entrants(const std::vector<attention::PolicySpec>& specs,
                                         std::vector<eval::MatchTarget>& targets, ModelSet& models);

/// The entrant that others are compared with: the one named, as users write policies or as results
/// do, or full attention if it runs; empty if there is none. Input error for a name that is not
/// among them.
std::string find_baseline(const std::string& name, const std::vector<eval::Entrant>& entrants,
                          ModelSet& models);

}  // namespace gsa::apps
