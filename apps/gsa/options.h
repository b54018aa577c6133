#pragma once

#include <CLI/App.hpp>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "attention/policy.h"
#include "engine/compare.h"
#include "engine/session.h"
#include "interrupt.h"
#include "model/model.h"

namespace gsa::apps {

/// Which model runs, and on what.
struct ModelArgs {
  std::string model;
  std::vector<std::string> adapters;
  std::string device = "cpu";
  std::string dtype = "auto";
  int num_threads = 0;  ///< 0: LibTorch's choice
};

/// The model without adapters, and where it runs.
void add_base_model_options(CLI::App& app, ModelArgs& args);
/// The same, and --adapter.
void add_model_options(CLI::App& app, ModelArgs& args);
void add_adapter_option(CLI::App& app, ModelArgs& args);

/// A base model and the adapters given for it.
class ModelSet {
 public:
  /// Input error if an adapter does not belong to the model.
  static ModelSet load(const ModelArgs& args);

  /// The model that a policy asks for with `adapter=NAME|none`; without it the first adapter given,
  /// or the base. Warns once per adapter if it was not trained for the policy's chunk sizes.
  std::shared_ptr<const model::Model> for_policy(const attention::PolicySpec& spec);

  const std::shared_ptr<const model::Model>& base() const { return base_; }
  /// The base with the first adapter given, or the base.
  const std::shared_ptr<const model::Model>& preferred() const;
  /// Names of the adapters, separated by commas; nothing without adapters.
  std::optional<std::string> adapter_names() const;

 private:
  std::shared_ptr<const model::Model> base_;
  std::vector<std::shared_ptr<const model::Model>> adapted_;
  std::vector<std::string> warned_;
};

/// How a conversation is led.
struct SessionArgs {
  std::string chat_template;
  std::optional<std::string> system_prompt;
  std::string thinking = "off";
  bool no_online_gisting = false;
  engine::SessionOptions options;  ///< the rest, set by the options themselves
};

void add_session_options(CLI::App& app, SessionArgs& args);
engine::SessionOptions make_session_options(const SessionArgs& args);

/// Length, sampling and stop strings of answers.
void add_generate_options(CLI::App& app, engine::GenerateOptions& options);

/// Reads one policy as a user writes it; input error for one that is not known, and for a list.
attention::PolicySpec parse_policy(const std::string& policy);

/// Reads policies separated by commas; input error for one that is not known or left empty.
std::vector<attention::PolicySpec> parse_policies(const std::string& policies);

/// Policies with the models they run on, in the order given; keys that were not written are those
/// of the adapter.
std::vector<engine::PolicyRun> make_runs(const std::vector<attention::PolicySpec>& specs,
                                         ModelSet& models);

/// The policy of a run without `--policy`: gsa with an adapter, meanpool without one, because it
/// needs no trained gists.
std::string default_policy(const ModelArgs& args);

/// What is written later is checked now, with `option` in front of the error: a resource error for
/// a path in a folder that is not there, an input error for one of the files that are read.
void check_output(const char* option, const std::string& path,
                  std::span<const std::string> read = {});

/// Says on stderr which of the runs use gists that no adapter trained.
void note_untrained_gists(const std::vector<engine::PolicyRun>& runs);

/// Reads documents under a progress bar (if wanted); throws Interrupted after Ctrl-C.
void read_with_progress(engine::Session& session, const std::vector<std::string>& documents,
                        const std::string& label, const Interrupt::Work& work, bool shows_progress);

/// Names and keys of policies, for the end of a help text.
std::string policy_help();

}  // namespace gsa::apps
