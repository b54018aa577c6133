#include "train_options.h"

#include <fmt/ranges.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <utility>

#include "core/error.h"
#include "core/split.h"
#include "number_checks.h"
#include "train/rows.h"

namespace gsa::apps {
namespace {

using train::DataKind;

/// Labels that a row of text alone counts as among rows of questions, which have 50 to 100 each.
constexpr std::int64_t kBareRowWeight = 256;

/// Where the learning rates of a training are best, measured on a model of 135M parameters.
double default_lr(DataKind stage, train::Trained trained) {
  const bool is_full = trained == train::Trained::full;
  if (stage == DataKind::cpt) return is_full ? 5e-4 : 4e-3;
  return is_full ? 1e-4 : 1e-3;
}

double default_gist_lr(DataKind stage, double lr) { return stage == DataKind::cpt ? 5e-3 : lr; }

/// Chunk sizes, with keys of their own behind a colon, as 16:read=full: they win over common ones.
attention::PolicySpec parse_chunks(const std::string& text, const std::string& common_keys) {
  if (text == "full") return train::row_policy({}, {});
  const std::size_t end = text.ends_with(':') ? text.size() : std::min(text.find(':'), text.size());
  std::string keys = text.substr(std::min(end + 1, text.size()));
  const std::string own = ":" + keys;
  for (const std::string_view part : core::split(common_keys, ':')) {
    const std::string key = fmt::format(":{}=", part.substr(0, part.find('=')));
    if (part.empty() || own.find(key) != own.npos) continue;
    if (!keys.empty()) keys += ':';
    keys += part;
  }
  return train::row_policy(attention::ChunkSizes::parse(text.substr(0, end)), keys);
}

std::vector<attention::PolicySpec> parse_all_chunks(const std::string& texts,
                                                    const std::string& keys) {
  std::vector<attention::PolicySpec> policies;
  for (const std::string_view text : core::split(texts, ','))
    policies.push_back(parse_chunks(std::string(text), keys));
  return policies;
}

model::LoraTarget parse_target(std::string_view name) {
  for (const model::LoraTarget target : model::kLoraTargets) {
    const std::string_view known = model::lora_target_name(target);
    if (name == known || known == std::string(name) + "_proj") return target;
  }
  std::vector<std::string_view> names;
  for (const model::LoraTarget target : model::kLoraTargets)
    names.push_back(model::lora_target_name(target));
  core::input_error("train: there is no projection '{}': choose among {}", name,
                    fmt::join(names, ","));
}

void set_stage_defaults(TrainArgs& args) {
  if (args.stage == DataKind::cpt) {
    args.num_steps = 700;
    args.chunks = "8,16,32,4-4";
    args.mix = "row";
    args.weight_decay = 0.1;
  } else {
    args.num_steps = 300;
    args.chunks = "16,8,16,4-4,16,32,8,8-4";
    args.mix = "step";
  }
}

void add_data_options(CLI::App& app, TrainArgs& args) {
  const auto* group = "Data";
  const bool is_ft = args.stage == DataKind::ft;
  app.add_option("--data", args.data,
                 is_ft ? "shard of questions, from gsa train prepare ft"
                       : "shard of text, from gsa train prepare cpt")
      ->required()
      ->group(group);
  if (is_ft) {
    app.add_option("--text", args.text,
                   "shard of text, from gsa train prepare cpt: some rows are such text with "
                   "made-up facts put in and questions about those, or plain (--plain-text)")
        ->group(group);
  }
  app.add_option("--init", args.init, "adapter to go on from, a file or a known name")
      ->group(group);
  app.add_option("--out,-o", args.out, "folder of the result, the log and the checkpoints")
      ->required()
      ->group(group);
  app.add_flag("--resume", args.resumes, "go on from the newest checkpoint in --out")->group(group);
  app.add_option("--validation", args.validation, "shard to score the model on")->group(group);
  app.add_option("--eval-every", args.eval_every, "steps between scores (default: a tenth of all)")
      ->check(whole_number(1))
      ->group(group);
  app.add_option("--eval-chunks", args.eval_chunks,
                 "chunk sizes that are scored, with keys as in --chunks; full: no gists")
      ->capture_default_str()
      ->group(group);
  app.add_option("--eval-windows", args.eval_windows,
                 is_ft ? "rows scored: the first ones of the shard's questions"
                       : "windows scored at most, spread over the shard")
      ->check(whole_number(1))
      ->capture_default_str()
      ->group(group);
  if (!is_ft) {
    app.add_option("--eval-len", args.eval_len, "raw tokens per row that is scored")
        ->check(whole_number(2, 1 << 24))
        ->capture_default_str()
        ->group(group);
    app.add_option("--eval-labels", args.eval_labels, "last tokens of a row that count; 0: all")
        ->check(whole_number(0))
        ->capture_default_str()
        ->group(group);
  }
}

void add_row_options(CLI::App& app, TrainArgs& args) {
  const auto* group = "Rows";
  app.add_option("--steps", args.num_steps, "optimiser steps")
      ->check(whole_number(1))
      ->capture_default_str()
      ->group(group);
  app.add_option("--rows", args.rows, "rows per step, of all processes together")
      ->check(whole_number(1))
      ->capture_default_str()
      ->group(group);
  app.add_option("--micro-batches", args.micro_batches,
                 "parts that a process computes one after the other, to save memory")
      ->check(whole_number(1))
      ->capture_default_str()
      ->group(group);
  app.add_option("--row-len", args.row_len, "tokens of a row's context, gists included")
      ->check(whole_number(8, 1 << 24))
      ->capture_default_str()
      ->group(group);
  app.add_option("--chunks", args.chunks,
                 "chunk sizes that rows take, as 8,16,4-4; name one more often to draw it more "
                 "often; keys may follow, as 16:read=full; full: no gists")
      ->capture_default_str()
      ->group(group);
  app.add_option("--mix", args.mix, "row: every row draws its chunk sizes; step: steps take turns")
      ->check(CLI::IsMember({"row", "step"}))
      ->capture_default_str()
      ->group(group);
  if (args.stage == DataKind::ft) {
    app.add_option("--text-rows", args.text_rows, "share of rows that are text of --text")
        ->check(between(0, 1))
        ->capture_default_str()
        ->group(group);
    app.add_option(
           "--plain-text", args.plain_text,
           fmt::format("share of the rows of --text that stay plain text, to keep what --model "
                       "can do; such a row weighs as much as {} tokens of answers",
                       kBareRowWeight))
        ->check(between(0, 1))
        ->capture_default_str()
        ->group(group);
    app.add_option("--plain-distill", args.plain_distill,
                   "share of the loss of plain text that is the distance to --model as it comes, "
                   "under full attention; the rest is that of the next token")
        ->check(between(0, 1))
        ->capture_default_str()
        ->group(group);
    app.add_option(
           "--made-tasks", args.made_tasks,
           "what is asked in the other rows of --text: numbers (and quotes), or all: also lists of "
           "pairs, long answers, joins of two sentences and missing words")
        ->check(CLI::IsMember({"numbers", "all"}))
        ->capture_default_str()
        ->group(group);
  }
  app.add_option(
         "--policy-keys", args.policy_keys,
         "further keys of the policy gsa for rows and scores, as route=both:tokens=1024; those "
         "that are no budget become defaults of the adapter")
      ->group(group);
  app.add_option("--seed", args.seed, "seed of the rows and of new weights")
      ->check(whole_number(0))
      ->capture_default_str()
      ->group(group);
}

void add_weight_options(CLI::App& app, TrainArgs& args) {
  const auto* group = "Weights";
  app.add_option("--train", args.trained, "lora, gists, or full: all weights (gists always train)")
      ->check(CLI::IsMember({"lora", "gists", "full"}))
      ->capture_default_str()
      ->group(group);
  app.add_option("--rank", args.rank, "rank of LoRA (default: that of --init, or 32)")
      ->check(whole_number(1, 4096))
      ->group(group);
  app.add_option("--alpha", args.alpha,
                 "LoRA is scaled by alpha / rank (default: as --init, or by 1)")
      ->check(above_zero())
      ->group(group);
  app.add_option(
         "--targets", args.targets,
         "projections with LoRA, as q,k,v,o,gate,up,down (default: those of --init, or all)")
      ->group(group);
  app.add_option("--gist-rows", args.num_gist_rows,
                 "gist embeddings; higher levels share the last (default: those of --init, or 2)")
      ->check(whole_number(1, 8))
      ->group(group);
  app.add_option("--gist-input", args.gist_input,
                 "what a gist starts from: row (its level's embedding), or content: also the mean "
                 "of its tokens' embeddings (default: that of --init, or row)")
      ->check(CLI::IsMember({"row", "content"}))
      ->group(group);
  add_file_dtype_option(app, "--adapter-dtype", args.adapter_dtype, "numbers in the adapter's file")
      ->group(group);
}

void add_optimizer_options(CLI::App& app, TrainArgs& args) {
  const auto* group = "Optimiser";
  const auto cpt = args.stage == DataKind::cpt;
  app.add_option("--lr", args.lr,
                 fmt::format("peak learning rate (default: {}; {} for --train full)",
                             default_lr(args.stage, train::Trained::lora),
                             default_lr(args.stage, train::Trained::full)))
      ->check(above_zero())
      ->group(group);
  app.add_option("--gist-lr", args.gist_lr,
                 cpt ? "peak learning rate of the gist embeddings (default: 0.005)"
                     : "peak learning rate of the gist embeddings (default: as --lr)")
      ->check(above_zero())
      ->group(group);
  app.add_option("--weight-decay", args.weight_decay, "weight decay of matrices")
      ->check(zero_or_more())
      ->capture_default_str()
      ->group(group);
  app.add_option("--warmup", args.warmup, "share of the steps in which the learning rate rises")
      ->check(between(0, 0.99))
      ->capture_default_str()
      ->group(group);
  app.add_option("--clip", args.clip, "scale gradients with a larger norm down to it")
      ->check(above_zero())
      ->capture_default_str()
      ->group(group);
  app.add_option("--max-spike", args.max_spike,
                 "stop with an error if a loss is so many nats above the running mean")
      ->check(above_zero())
      ->capture_default_str()
      ->group(group);
  app.add_option(
         "--distill", args.distill,
         args.stage == DataKind::ft
             ? "share of the loss of answers that is the distance to the teacher under full "
               "attention"
             : "share of the loss that is the distance to the teacher under full attention")
      ->check(between(0, 1))
      ->capture_default_str()
      ->group(group);
  app.add_option("--teacher", args.teacher,
                 "adapter of the teacher of --distill, a file or a known name (default: none, the "
                 "teacher is --model as it comes)")
      ->group(group);
  app.add_option("--plain-view", args.plain_view,
                 "weight of the distance to the same model under full attention")
      ->check(zero_or_more())
      ->capture_default_str()
      ->group(group);
  if (args.stage != DataKind::ft) return;
  app.add_option("--routing", args.routing,
                 "weight of the distance from a question's scores of the gists to its attention to "
                 "their chunks under full attention")
      ->check(zero_or_more())
      ->capture_default_str()
      ->group(group);
}

void add_run_options(CLI::App& app, TrainArgs& args) {
  const auto* group = "Run";
  app.add_flag("--checkpoint-activations", args.recomputes,
               "compute layers twice instead of keeping what backward needs: slower, less memory")
      ->group(group);
  app.add_option("--save-minutes", args.save_minutes,
                 "minutes between checkpoints; 0: one after every step")
      ->check(zero_or_more())
      ->capture_default_str()
      ->group(group);
  app.add_option("--loader-threads", args.num_loader_threads, "threads that prepare rows")
      ->check(whole_number(1, 64))
      ->capture_default_str()
      ->group(group);
  app.add_flag("--deterministic", args.is_deterministic,
               "only operations that give the same bits every time")
      ->group(group);
  app.add_flag("--json", args.is_json, "the last line of standard output is a JSON object")
      ->group(group);
  app.add_flag("--quiet", args.is_quiet, "no progress")->group(group);
}

std::string joined_policies(const std::vector<attention::PolicySpec>& policies,
                            const std::string& keys) {
  std::vector<std::string> names;
  for (const auto& policy : policies) names.push_back(train::row_policy_name(policy, keys));
  return fmt::format("{}", fmt::join(names, ","));
}

std::string joined_targets(const std::vector<model::LoraTarget>& targets) {
  if (targets.size() == model::kLoraTargets.size()) return "all";
  return train::target_names(targets);
}

}  // namespace

CLI::Option* add_file_dtype_option(CLI::App& app, const char* name, std::string& dtype,
                                   const char* what) {
  return app.add_option(name, dtype, fmt::format("type of the {}: bf16, f16 or f32", what))
      ->check(CLI::IsMember({"bf16", "f16", "f32"}))
      ->capture_default_str();
}

at::ScalarType parse_file_dtype(std::string_view name) {
  if (name == "bf16") return at::kBFloat16;
  return name == "f16" ? at::kHalf : at::kFloat;
}

void add_train_options(CLI::App& app, TrainArgs& args) {
  set_stage_defaults(args);
  add_data_options(app, args);
  add_row_options(app, args);
  add_weight_options(app, args);
  add_optimizer_options(app, args);
  add_run_options(app, args);
  add_base_model_options(app, args.model);
}

train::ParameterOptions make_parameter_options(const TrainArgs& args, const model::Adapter* init) {
  train::ParameterOptions options;
  options.trained = train::parse_trained(args.trained);
  options.alpha = args.alpha;
  options.seed = args.seed;
  if (init != nullptr) {
    options.num_gist_rows = init->info.num_gist_rows;
    options.gist_input = init->info.gist_input;
    if (!init->loras.empty()) {
      if (args.alpha > 0 && args.alpha != init->info.lora_alpha) {
        core::input_error("train: adapter '{}' has alpha {}; leave --alpha out", init->info.name,
                          init->info.lora_alpha);
      }
      options.rank = init->info.lora_rank;
      options.alpha = init->info.lora_alpha;
      options.targets = init->info.lora_targets;
    }
  }
  if (args.rank) options.rank = *args.rank;
  if (args.targets) {
    options.targets.clear();
    for (const std::string_view name : core::split(*args.targets, ',')) {
      const model::LoraTarget target = parse_target(name);
      if (std::ranges::find(options.targets, target) == options.targets.end())
        options.targets.push_back(target);
    }
  }
  if (args.num_gist_rows && init != nullptr && *args.num_gist_rows != options.num_gist_rows) {
    core::input_error("train: adapter '{}' has {} gist rows; leave --gist-rows out",
                      init->info.name, options.num_gist_rows);
  }
  if (args.num_gist_rows) options.num_gist_rows = *args.num_gist_rows;
  if (args.gist_input) {
    const model::GistInput input = model::parse_gist_input(*args.gist_input);
    if (init != nullptr && input != options.gist_input) {
      core::input_error("train: gists of adapter '{}' start from {}; leave --gist-input out",
                        init->info.name, model::gist_input_name(options.gist_input));
    }
    options.gist_input = input;
  }
  return options;
}

train::TrainOptions make_train_options(const TrainArgs& args) {
  if (args.routing > 0 && args.recomputes) {
    core::input_error(
        "train: --routing does not go with --checkpoint-activations; leave one of them out, or "
        "save memory with --micro-batches");
  }
  (void)attention::PolicySpec::trained_keys(args.policy_keys);  // rows of full attention need none
  if (!args.teacher.empty() && args.distill == 0)
    core::input_error("train: nothing is learnt from --teacher: give --distill");
  if (args.plain_text > 0 && args.text_rows == 0)
    core::input_error("train: --plain-text is a share of --text-rows, which are 0: give more");
  if (args.plain_text == 0 && args.plain_distill != TrainArgs().plain_distill)
    core::input_error("train: --plain-distill is about plain text: give --plain-text");
  train::TrainOptions options;
  options.out = args.out;
  options.policy_keys = args.policy_keys;
  options.schedule = {.num_steps = args.num_steps, .warmup = args.warmup};
  options.rows.policies = parse_all_chunks(args.chunks, args.policy_keys);
  for (const attention::PolicySpec& policy : options.rows.policies) {
    using Route = attention::PolicySpec::Route;
    if (args.routing > 0 && (policy.route == Route::mean || policy.route == Route::oracle))
      core::input_error(
          "train: --routing trains the scores of gists: give route=gist or route=both");
  }
  options.rows.mix =
      args.mix == "row" ? train::RowPlan::Mix::drawn_per_row : train::RowPlan::Mix::cycled_per_step;
  options.rows.rows_per_step = args.rows;
  options.rows.num_micro_batches = args.micro_batches;
  options.rows.row_len = args.row_len;
  options.rows.seed = args.seed;
  if (args.stage == train::DataKind::ft) options.rows.max_bare_weight = kBareRowWeight;
  options.optimizer.lr =
      args.lr.value_or(default_lr(args.stage, train::parse_trained(args.trained)));
  options.optimizer.gist_lr =
      args.gist_lr.value_or(default_gist_lr(args.stage, options.optimizer.lr));
  options.optimizer.weight_decay = args.weight_decay;
  options.optimizer.max_norm = args.clip;
  options.step.distill = args.distill;
  options.step.bare_distill = args.stage == train::DataKind::ft ? args.plain_distill : args.distill;
  options.step.plain_view = args.plain_view;
  options.step.routing = args.routing;
  options.max_spike = args.max_spike;
  options.save_minutes = args.save_minutes;
  options.step.recompute = args.recomputes;
  options.num_loader_threads = args.num_loader_threads;
  if (!args.validation.empty()) {
    options.eval_every =
        args.eval_every > 0 ? args.eval_every : std::max<std::int64_t>(1, args.num_steps / 10);
    options.eval_policies = parse_all_chunks(args.eval_chunks, args.policy_keys);
    options.eval.max_labels = args.eval_labels;
  }
  return options;
}

train::FtSamplerOptions make_sampler_options(const TrainArgs& args) {
  train::FtSamplerOptions options;
  const TrainArgs defaults;
  if (args.text.empty() &&
      (args.text_rows != defaults.text_rows || args.plain_text != defaults.plain_text ||
       args.made_tasks != defaults.made_tasks)) {
    core::input_error(
        "train: --text-rows, --plain-text and --made-tasks are about rows of text: give --text");
  }
  options.book_rows = args.text_rows;
  options.bare_book_rows = args.plain_text;
  options.made_tasks = train::parse_made_tasks(args.made_tasks);
  return options;
}

std::string make_recipe(const TrainArgs& args, const train::TrainOptions& options,
                        const train::ParameterOptions& parameters, at::ScalarType dtype,
                        const std::string& teacher_digest) {
  std::string recipe =
      fmt::format("{} steps={} rows={} row_len={} chunks={} mix={}",
                  train::data_kind_name(args.stage), args.num_steps, args.rows, args.row_len,
                  joined_policies(options.rows.policies, args.policy_keys), args.mix);
  if (!args.policy_keys.empty()) recipe += fmt::format(" policy_keys={}", args.policy_keys);
  const TrainArgs defaults;
  if (args.text_rows != defaults.text_rows) recipe += fmt::format(" text_rows={}", args.text_rows);
  if (args.plain_text != defaults.plain_text)
    recipe += fmt::format(" plain_text={}", args.plain_text);
  if (args.plain_distill != defaults.plain_distill)
    recipe += fmt::format(" plain_distill={}", args.plain_distill);
  if (args.made_tasks != defaults.made_tasks)
    recipe += fmt::format(" made_tasks={}", args.made_tasks);
  recipe += fmt::format(" train={}", args.trained);
  if (parameters.trained == train::Trained::lora) {
    recipe +=
        fmt::format(" rank={} alpha={} targets={}", parameters.rank,
                    parameters.alpha > 0 ? parameters.alpha : static_cast<double>(parameters.rank),
                    joined_targets(parameters.targets));
  }
  const train::OptimizerOptions& optimizer = options.optimizer;
  recipe += fmt::format(" gist_rows={}", parameters.num_gist_rows);
  if (parameters.gist_input != model::GistInput::row)
    recipe += fmt::format(" gist_input={}", model::gist_input_name(parameters.gist_input));
  recipe += fmt::format(" lr={} gist_lr={} weight_decay={} warmup={} clip={}", optimizer.lr,
                        optimizer.gist_lr, optimizer.weight_decay, args.warmup, args.clip);
  if (args.distill > 0) recipe += fmt::format(" distill={}", args.distill);
  if (!teacher_digest.empty()) recipe += fmt::format(" teacher={}", teacher_digest);
  if (args.plain_view > 0) recipe += fmt::format(" plain_view={}", args.plain_view);
  if (args.routing > 0) recipe += fmt::format(" routing={}", args.routing);
  return recipe + fmt::format(" seed={} dtype={}", args.seed, model::dtype_name(dtype));
}

void inherit_policy_keys(TrainArgs& args, const model::Adapter& init) {
  const std::string& keys = init.info.policy_keys;
  if (keys.empty() || !attention::PolicySpec::trained_keys(args.policy_keys).empty()) return;
  args.policy_keys = args.policy_keys.empty() ? keys : keys + ":" + args.policy_keys;
}

std::vector<attention::ChunkSizes> chunk_sizes_seen(const train::TrainOptions& options,
                                                    const model::Adapter* init) {
  std::vector<attention::ChunkSizes> seen;
  if (init != nullptr) seen = init->info.chunk_sizes;
  for (const attention::PolicySpec& policy : options.rows.policies) {
    const auto& sizes = policy.layout.chunk_sizes;
    if (!sizes.sizes.empty() && std::ranges::find(seen, sizes) == seen.end()) seen.push_back(sizes);
  }
  return seen;
}

}  // namespace gsa::apps
