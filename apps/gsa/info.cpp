#include <fmt/format.h>
#include <fmt/ranges.h>

#include <CLI/CLI.hpp>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "command.h"
#include "find_model.h"
#include "gsa/error.h"
#include "memory_plan.h"
#include "model/merge.h"
#include "number_checks.h"
#include "options.h"
#include "terminal.h"
#include "text/chat_template.h"

namespace gsa::apps {
namespace {

using Json = nlohmann::ordered_json;

constexpr const char* examples = R"(
Examples:
  gsa info --model smollm2
  gsa info --model smollm2 --adapter gists.safetensors --context 100000 --json
)";

struct InfoArgs {
  ModelArgs model;
  std::string chunks;
  std::int64_t num_context = 0;
  bool is_json = false;
};

/// Name of the chat template, or nothing if it is not known.
std::optional<std::string> chat_template_name(const model::Model& model) {
  try {
    return text::ChatTemplate::detect(model.tokenizer().chat_template()).name();
  } catch (const Error&) {
    return std::nullopt;
  }
}

std::vector<std::string> names_of(const std::vector<attention::ChunkSizes>& sizes) {
  std::vector<std::string> names;
  for (const auto& chunk_sizes : sizes) names.push_back(chunk_sizes.to_string());
  return names;
}

Json adapter_json(const model::AdapterInfo& info) {
  std::vector<std::string> targets;
  for (const auto target : info.lora_targets) targets.emplace_back(model::lora_target_name(target));
  return {{"name", info.name},
          {"chunk_sizes", names_of(info.chunk_sizes)},
          {"policy_keys", info.policy_keys},
          {"gist_rows", info.num_gist_rows},
          {"gist_input", model::gist_input_name(info.gist_input)},
          {"lora_rank", info.lora_rank},
          {"lora_alpha", info.lora_alpha},
          {"lora_targets", targets},
          {"recipe", info.recipe}};
}

/// How far folding the first adapter into quantised weights moves them; nothing where it does not.
std::optional<model::MergeRounding> rounding_of(const InfoArgs& args, const ModelSet& models) {
  const model::Model& merged = *models.preferred();
  if (!merged.is_packed() || merged.adapter() == nullptr || merged.adapter()->lora_rank == 0)
    return std::nullopt;
  const auto adapter = model::Adapter::load(find_adapter(args.model.adapters.front()));
  return model::merge_rounding(*models.base()->with_adapter(adapter), merged);
}

std::string to_json(const InfoArgs& args, const model::Model& model, const MemoryPlan& plan,
                    const std::optional<model::MergeRounding>& rounding) {
  const model::ModelConfig& config = model.config();
  const auto template_name = chat_template_name(model);
  Json object = {{"model", args.model.model},
                 {"family", model::family_name(config.family)},
                 {"layers", config.num_layers},
                 {"hidden", config.hidden},
                 {"heads", config.num_heads},
                 {"kv_heads", config.num_kv_heads},
                 {"head_dim", config.head_dim},
                 {"vocabulary", config.vocab},
                 {"trained_window", config.trained_window},
                 {"dtype", model::dtype_name(model.dtype())},
                 {"device", model.device().str()},
                 {"fingerprint", model.fingerprint()},
                 {"chat_template", template_name ? Json(*template_name) : Json(nullptr)},
                 {"adapter", model.adapter() ? adapter_json(*model.adapter()) : Json(nullptr)}};
  if (rounding) {
    object["adapter"]["rounding"] = {{"of_weights", rounding->of_weights},
                                     {"of_updates", rounding->of_updates}};
  }
  const auto longest = plan.longest_context();
  object["memory"] = {{"chunk_sizes", plan.chunk_sizes.to_string()},
                      {"context_tokens", plan.num_context},
                      {"weight_bytes", plan.weights},
                      {"raw_kv_bytes_per_1k_tokens", plan.raw_per_token * 1000},
                      {"gist_kv_bytes_per_1k_tokens", plan.gists_per_token * 1000},
                      {"chunk_key_bytes_per_1k_tokens", plan.chunk_keys_per_token * 1000},
                      {"context_kv_bytes", plan.context()},
                      {"total_bytes", plan.total()},
                      {"available_bytes", plan.available ? Json(*plan.available) : Json(nullptr)},
                      {"longest_context_tokens", longest ? Json(*longest) : Json(nullptr)}};
  return object.dump(2, ' ', false, Json::error_handler_t::replace);
}

void print_line(const char* name, const std::string& value) {
  fmt::print("{:<22}{}\n", name, value);
}

void print_text(const InfoArgs& args, const model::Model& model, const MemoryPlan& plan,
                const std::optional<model::MergeRounding>& rounding) {
  const model::ModelConfig& config = model.config();
  print_line("model", args.model.model);
  print_line("family", std::string(model::family_name(config.family)));
  print_line("shape",
             fmt::format("{} layers, hidden {}, {} query heads on {} key/value heads of {}",
                         config.num_layers, config.hidden, config.num_heads, config.num_kv_heads,
                         config.head_dim));
  print_line("vocabulary", format_count(config.vocab));
  print_line("trained window", format_count(config.trained_window) + " tokens");
  print_line("chat template", chat_template_name(model).value_or("not known: --chat-template"));
  print_line("fingerprint", model.fingerprint());
  if (const model::AdapterInfo* adapter = model.adapter()) {
    print_line(
        "adapter",
        fmt::format("{}: {} gist rows{}, LoRA rank {}, trained for chunks {}", adapter->name,
                    adapter->num_gist_rows,
                    adapter->gist_input == model::GistInput::content
                        ? " plus the mean of their tokens"
                        : "",
                    adapter->lora_rank,
                    adapter->chunk_sizes.empty()
                        ? "not told"
                        : fmt::format("{}", fmt::join(names_of(adapter->chunk_sizes), ", "))));
    if (!adapter->policy_keys.empty()) {
      print_line("", fmt::format("used with {}, the defaults of gsa and gist-only on it",
                                 adapter->policy_keys));
    }
    if (!adapter->recipe.empty()) print_line("", without_control_characters(adapter->recipe));
    if (rounding) {
      print_line("", fmt::format("folded into quantised weights, which rounds them by {:.1f} % "
                                 "({:.1f} times the updates)",
                                 100 * rounding->of_weights, rounding->of_updates));
    }
  } else {
    print_line("adapter", "none: gists are untrained");
  }
  fmt::print("\nMemory in {} on {}\n", model::dtype_name(model.dtype()), model.device().str());
  print_line("weights", format_bytes(static_cast<double>(plan.weights)));
  print_line(
      "KV per 1k tokens",
      fmt::format(
          "{} raw, {} gists{} (chunks of {})", format_bytes(plan.raw_per_token * 1000),
          format_bytes(plan.gists_per_token * 1000),
          plan.chunk_keys_per_token == 0
              ? ""
              : fmt::format(", {} keys of chunks", format_bytes(plan.chunk_keys_per_token * 1000)),
          plan.chunk_sizes.to_string()));
  print_line("context", fmt::format("{} for {} tokens", format_bytes(plan.context()),
                                    format_count(plan.num_context)));
  print_line(
      "together",
      fmt::format("{}{}", format_bytes(plan.total()),
                  plan.available ? fmt::format(" ({} are free now)",
                                               format_bytes(static_cast<double>(*plan.available)))
                                 : ""));
  if (const auto longest = plan.longest_context()) {
    print_line(
        "longest context",
        fmt::format(
            "{} tokens in what is free{}", format_count(*longest),
            plan.fits() ? "" : fmt::format(": {} do not fit", format_count(plan.num_context))));
  }
}

int run_info(const InfoArgs& args) {
  auto spec =
      attention::PolicySpec::parse("gsa@" + attention::ChunkSizes::parse(args.chunks).to_string());
  ModelSet models = ModelSet::load(args.model);
  const model::Model& model = *models.preferred();
  if (model.adapter() != nullptr) spec = spec.with_defaults(model.adapter()->policy_keys);
  const MemoryPlan plan = plan_memory(
      model, spec, args.num_context > 0 ? args.num_context : model.config().trained_window);
  const auto rounding = rounding_of(args, models);
  if (args.is_json) {
    fmt::print("{}\n", to_json(args, model, plan, rounding));
  } else {
    print_text(args, model, plan, rounding);
  }
  return 0;
}

}  // namespace

Command add_info(CLI::App& app) {
  auto args = std::make_shared<InfoArgs>();
  args->chunks = "16";
  app.add_option("--context,-c", args->num_context,
                 "tokens to plan memory for (default: the trained window)")
      ->check(whole_number(1, 1'000'000'000));
  app.add_option("--chunks", args->chunks, "chunk sizes to plan for, as 16 or 4-4")
      ->capture_default_str();
  app.add_flag("--json", args->is_json, "one JSON object on standard output");
  add_model_options(app, args->model);
  app.footer(examples);
  return [args] { return run_info(*args); };
}

}  // namespace gsa::apps
