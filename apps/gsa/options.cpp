#include "options.h"

#include <ATen/Parallel.h>
#include <fmt/ranges.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <filesystem>

#include "core/error.h"
#include "core/log.h"
#include "core/split.h"
#include "documents.h"
#include "engine/memory.h"
#include "find_model.h"
#include "model/adapter.h"
#include "model/device.h"
#include "number_checks.h"
#include "progress.h"
#include "terminal.h"
#include "text/chat_template.h"

namespace gsa::apps {

void add_base_model_options(CLI::App& app, ModelArgs& args) {
  app.add_option("--model,-m", args.model, "GGUF file, Hugging Face directory, or the name smollm2")
      ->required()
      ->group("Model");
  app.add_option("--device", args.device, "cpu, cuda or cuda:N")
      ->capture_default_str()
      ->group("Model");
  app.add_option("--dtype", args.dtype,
                 "f32, bf16, auto (bf16 where the device is fast at it), or file: as bf16, but "
                 "quantised weights stay as they lie in the file (CPU)")
      ->capture_default_str()
      ->group("Model");
  app.add_option("--threads,-t", args.num_threads, "threads of the CPU (default: one per core)")
      ->check(whole_number(1, 1024))
      ->group("Model");
}

void add_model_options(CLI::App& app, ModelArgs& args) {
  add_base_model_options(app, args);
  add_adapter_option(app, args);
}

void add_adapter_option(CLI::App& app, ModelArgs& args) {
  app.add_option(
         "--adapter", args.adapters,
         "trained gists: a safetensors file, or smollm2-gsa, which comes with gsa; repeatable: a "
         "policy names one by its file name without ending, adapter=NAME, or takes the first")
      ->allow_extra_args(false)
      ->group("Model");
}

ModelSet ModelSet::load(const ModelArgs& args) {
  if (args.num_threads > 0) at::set_num_threads(args.num_threads);
  const auto path = find_model(args.model);
  const at::Device device = model::parse_device(args.device);
  model::LoadOptions options{.device = device};
  if (args.dtype == "file") {
    options.dtype = at::kBFloat16;
    options.form = model::MatrixForm::packed;
  } else {
    options.dtype = model::parse_dtype(args.dtype, device);
  }
  ModelSet set;
  set.base_ = model::Model::load(path, options);
  for (const std::string& file : args.adapters) {
    const auto adapter = model::Adapter::load(find_adapter(file));
    for (const auto& other : set.adapted_) {
      if (other->adapter()->name == adapter.info.name) {
        core::input_error(
            "--adapter {}: another one is called {}, too, and policies name adapters by their "
            "file; rename one",
            file, adapter.info.name);
      }
    }
    set.adapted_.push_back(set.base_->with_adapter(adapter)->merged());
  }
  engine::settle_memory();
  return set;
}

const std::shared_ptr<const model::Model>& ModelSet::preferred() const {
  return adapted_.empty() ? base_ : adapted_.front();
}

std::shared_ptr<const model::Model> ModelSet::for_policy(const attention::PolicySpec& spec) {
  if (spec.adapter == "none") return base_;
  auto model = preferred();
  if (spec.adapter) {
    const auto found = std::find_if(adapted_.begin(), adapted_.end(), [&](const auto& adapted) {
      return adapted->adapter()->name == *spec.adapter;
    });
    if (found == adapted_.end()) {
      core::input_error("policy: {}: there is no adapter {}: give its file with --adapter ({})",
                        spec.to_string(), *spec.adapter,
                        adapter_names().value_or("none was given"));
    }
    model = *found;
  }
  const model::AdapterInfo* info = model->adapter();
  if (info == nullptr || info->chunk_sizes.empty() || spec.layout.chunk_sizes.sizes.empty())
    return model;
  const auto& trained = info->chunk_sizes;
  const std::string pair = info->name + spec.layout.chunk_sizes.to_string();
  if (std::find(trained.begin(), trained.end(), spec.layout.chunk_sizes) == trained.end() &&
      std::find(warned_.begin(), warned_.end(), pair) == warned_.end()) {
    std::vector<std::string> sizes;
    for (const auto& chunk_sizes : trained) sizes.push_back(chunk_sizes.to_string());
    core::log_warning(fmt::format("adapter {} was trained for chunk sizes {}, not for {}",
                                  info->name, fmt::join(sizes, ", "),
                                  spec.layout.chunk_sizes.to_string()));
    warned_.push_back(pair);
  }
  return model;
}

std::optional<std::string> ModelSet::adapter_names() const {
  if (adapted_.empty()) return std::nullopt;
  std::vector<std::string> names;
  for (const auto& adapted : adapted_) names.push_back(adapted->adapter()->name);
  return fmt::format("{}", fmt::join(names, ","));
}

void add_session_options(CLI::App& app, SessionArgs& args) {
  const auto* group = "Conversation";
  app.add_option_function<std::string>(
         "--system", [&args](const std::string& text) { args.system_prompt = text; },
         "system prompt (default: the model's own)")
      ->group(group);
  app.add_option(
         "--chat-template", args.chat_template,
         fmt::format("{} (default: the model's own)", fmt::join(text::ChatTemplate::names(), ", ")))
      ->group(group);
  app.add_option("--thinking", args.thinking, "on or off, for models that can think aloud first")
      ->check(CLI::IsMember({"on", "off"}))
      ->capture_default_str()
      ->group(group);
  app.add_option("--segment", args.options.segment_len, "tokens read per step")
      ->check(whole_number(1))
      ->capture_default_str()
      ->group(group);
  app.add_flag("--no-online-gisting", args.no_online_gisting,
               "keep questions and answers raw instead of folding them as they grow")
      ->group(group);
}

engine::SessionOptions make_session_options(const SessionArgs& args) {
  engine::SessionOptions options = args.options;
  if (!args.chat_template.empty())
    options.chat_template = text::ChatTemplate::by_name(args.chat_template);
  if (args.system_prompt) options.system_prompt = valid_argument(*args.system_prompt, "--system");
  options.thinking = args.thinking == "on" ? text::Thinking::on : text::Thinking::off;
  options.online_gisting = !args.no_online_gisting;
  return options;
}

void add_generate_options(CLI::App& app, engine::GenerateOptions& options) {
  const auto* group = "Answer";
  engine::SamplingOptions& sampling = options.sampling;
  app.add_option("--max-tokens", options.max_tokens,
                 fmt::format("longest answer (default: {}, or what the model's window leaves)",
                             engine::GenerateOptions::kDefaultMaxTokens))
      ->check(whole_number(1))
      ->group(group);
  app.add_option("--temperature", sampling.temperature, "0 takes the most likely token")
      ->check(zero_or_more())
      ->capture_default_str()
      ->group(group);
  app.add_option("--top-k", sampling.top_k, "draw from the k most likely tokens; 0: all")
      ->check(whole_number(0))
      ->capture_default_str()
      ->group(group);
  app.add_option("--top-p", sampling.top_p, "draw from the likeliest tokens that sum to p")
      ->check(between(0, 1))
      ->capture_default_str()
      ->group(group);
  app.add_option("--min-p", sampling.min_p, "drop tokens below p times the likeliest one's share")
      ->check(between(0, 1))
      ->capture_default_str()
      ->group(group);
  app.add_option("--repetition-penalty", sampling.repetition_penalty, "1: none")
      ->check(above_zero())
      ->capture_default_str()
      ->group(group);
  app.add_option("--seed", sampling.seed, "of the draws")
      ->check(whole_number(0))
      ->capture_default_str()
      ->group(group);
  app.add_option("--stop", options.stop, "end the answer before this text; repeatable")
      ->allow_extra_args(false)
      ->group(group);
}

attention::PolicySpec parse_policy(const std::string& policy) {
  if (policy.find(',') != std::string::npos) {
    core::input_error("policy '{}': give one here; gsa ask --compare takes several", policy);
  }
  return attention::PolicySpec::parse(policy);
}

std::vector<attention::PolicySpec> parse_policies(const std::string& policies) {
  std::vector<attention::PolicySpec> specs;
  for (const std::string_view policy : core::split(policies, ',')) {
    if (policy.empty()) {
      core::input_error("policies: '{}' has an empty entry: write for example full,gsa@16",
                        policies);
    }
    specs.push_back(attention::PolicySpec::parse(policy));
  }
  return specs;
}

std::vector<engine::PolicyRun> make_runs(const std::vector<attention::PolicySpec>& specs,
                                         ModelSet& models) {
  std::vector<engine::PolicyRun> runs;
  for (const attention::PolicySpec& spec : specs) runs.emplace_back(models.for_policy(spec), spec);
  return runs;
}

std::string default_policy(const ModelArgs& args) {
  return args.adapters.empty() ? "meanpool" : "gsa";
}

void check_output(const char* option, const std::string& path, std::span<const std::string> read) {
  for (const std::string& file : read) {
    std::error_code ignored;
    if (std::filesystem::equivalent(file, path, ignored))
      core::input_error("{} {}: is read and written; give another", option, path);
  }
  const auto folder = std::filesystem::path(path).parent_path();
  if (folder.empty() || std::filesystem::is_directory(folder)) return;
  core::resource_error("{} {}: there is no folder {}: make it first", option, path,
                       folder.string());
}

void note_untrained_gists(const std::vector<engine::PolicyRun>& runs) {
  std::vector<std::string> untrained;
  for (const engine::PolicyRun& run : runs) {
    if (run.model->adapter() == nullptr && attention::make_policy(run.spec)->uses_gists())
      untrained.push_back(run.spec.to_string());
  }
  if (untrained.empty()) return;
  print_note(
      fmt::format("the gists of {} are untrained: expect poor answers until --adapter gives "
                  "trained ones",
                  fmt::join(untrained, ", ")));
}

void read_with_progress(engine::Session& session, const std::vector<std::string>& documents,
                        const std::string& label, const Interrupt::Work& work,
                        bool shows_progress) {
  ProgressBar progress(shows_progress);
  progress.begin(label);
  session.read(documents, [&](std::int64_t done, std::int64_t total) {
    work.check();
    progress.update(done, total);
  });
}

std::string policy_help() {
  std::string help =
      "Policies are written NAME[@CHUNKS][:key=value]..., for example gsa@4-4:tokens=1024:\n";
  for (const auto& [name, text] : attention::PolicySpec::known_names())
    help += fmt::format("  {:<12} {}\n", name, text);
  help += "Keys:\n";
  for (const auto& [key, text] : attention::PolicySpec::known_keys())
    help += fmt::format("  {:<12} {}\n", key, text);
  return help;
}

}  // namespace gsa::apps
