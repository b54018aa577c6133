#include "train_layers.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "attention/budget.h"
#include "core/error.h"
#include "core/split.h"
#include "engine/policy_run.h"
#include "find_model.h"
#include "number_checks.h"
#include "options.h"
#include "progress.h"
#include "table.h"
#include "terminal.h"
#include "train/evaluate.h"
#include "train/ft_sampler.h"
#include "train/layer_budget.h"
#include "train/rows.h"
#include "train_options.h"

namespace gsa::apps {
namespace {

using Json = nlohmann::ordered_json;

constexpr const char* examples = R"(
Measures on rows of training questions what twice the budget of one layer gains, layer by layer, and
then budgets that favour the layers which gain most, with the sum of an even one. Prints the best of
those that keep at most 3 % more chunks, as the key layers= of a policy, for `gsa train ft --policy-keys`
and for policies of the same adapter; --out writes the adapter with that key, so that gsa on it has
this budget by default. Use questions that the adapter was trained on, never those it is scored on.

Example:
  gsa train layers --model smollm2 --adapter run2/adapter.safetensors --data questions.gsa \
    --policy-keys route=both --device cuda --out mine.safetensors
)";

struct LayersArgs {
  ModelArgs model;
  std::string data, chunks = "8,16,32", policy_keys;
  std::string out, adapter_dtype = "bf16";
  std::int64_t num_rows = 40, row_len = 4608;
  bool is_json = false, is_quiet = false;
};

std::string layers_key(const std::vector<double>& shares) {
  attention::PolicySpec spec = attention::PolicySpec::parse("gsa");
  spec.layer_shares = shares;
  const std::string text = spec.to_string();
  return text.substr(text.find("layers="));
}

/// The policies of the rows on the adapter's defaults, without shares.
std::vector<attention::PolicySpec> make_policies(const LayersArgs& args,
                                                 const std::shared_ptr<const model::Model>& model) {
  std::vector<attention::PolicySpec> policies;
  for (const std::string_view chunks : core::split(args.chunks, ',')) {
    const attention::PolicySpec written =
        train::row_policy(attention::ChunkSizes::parse(chunks), args.policy_keys);
    if (!written.layer_shares.empty())
      core::input_error("train layers: leave layers= out of --policy-keys: it is looked for");
    if (written.budget.kind == attention::Budget::Kind::top_p)
      core::input_error("train layers: layers share a budget in ratio or tokens, top_p has none");
    policies.push_back(engine::PolicyRun(model, written).spec);
    policies.back().layer_shares.clear();
  }
  return policies;
}

/// Chunks that the searches of the examples may keep under some shares, over all policies.
class ChunkCounter {
 public:
  ChunkCounter(const model::Model& model, std::span<const train::Example> examples,
               const std::vector<attention::PolicySpec>& policies)
      : policies_(policies), group_(model.config().num_heads / model.config().num_kv_heads) {
    for (const attention::PolicySpec& policy : policies) {
      rows_.push_back(train::pack_rows(examples, std::vector(examples.size(), policy),
                                       model.tokenizer().word_starts()));
    }
  }

  double operator()(std::span<const double> shares) const {
    std::int64_t count = 0;
    for (std::size_t i = 0; i < policies_.size(); ++i) {
      for (const auto& layout : rows_[i].layouts) {
        attention::BudgetContext context{layout->num_raw(), group_, group_, layout.get()};
        for (int level = 0; level < layout->num_levels(); ++level)
          context.num_keys += layout->num_nodes(level);
        for (std::size_t layer = 1; layer < shares.size(); ++layer) {
          context.share = shares[layer];
          count += std::min(layout->num_nodes(0), attention::max_nodes(policies_[i], context, 0));
        }
      }
    }
    return static_cast<double>(count);
  }

 private:
  const std::vector<attention::PolicySpec>& policies_;
  std::int64_t group_;
  std::vector<train::PackedRows> rows_;  // per policy
};

/// The adapter with the keys of the policy that was looked at, and the budget if one is better than
/// an even one.
void save_adapter(const LayersArgs& args, attention::PolicySpec policy,
                  const train::LayerBudget& result) {
  if (const auto* best = result.best()) policy.layer_shares = best->shares;
  const std::string text = policy.to_string();
  const std::size_t keys = text.find(':');
  model::Adapter adapter = model::Adapter::load(find_adapter(args.model.adapters.front()));
  adapter.info.policy_keys =
      keys == std::string::npos ? "" : attention::PolicySpec::trained_keys(text.substr(keys + 1));
  adapter.save(args.out, parse_file_dtype(args.adapter_dtype));
}

void print_result(const train::LayerBudget& result) {
  Table gains({{"layer"}, {"gain"}});
  for (std::size_t layer = 1; layer < result.gains.size(); ++layer)
    gains.add_row({std::to_string(layer), fmt::format("{:+.4f}", result.gains[layer])});
  fmt::print("{}\n", gains.to_string(terminal_width()));
  Table tried({{"layers favoured"}, {"factor"}, {"chunks kept"}, {"loss"}});
  tried.add_row({"0", "1", "1.00", fmt::format("{:.4f}", result.even_loss)});
  for (const auto& candidate : result.candidates) {
    tried.add_row({std::to_string(candidate.num_favoured), fmt::format("{}", candidate.factor),
                   fmt::format("{:.2f}", candidate.cost), fmt::format("{:.4f}", candidate.loss)});
  }
  fmt::print("{}\n", tried.to_string(terminal_width()));
  if (const auto* best = result.best()) {
    fmt::print("{}\n", layers_key(best->shares));
  } else {
    fmt::print("no budget of as many chunks is better than an even one\n");
  }
}

Json result_object(const train::LayerBudget& result, const std::vector<std::string>& policies) {
  Json candidates = Json::array();
  for (const auto& candidate : result.candidates) {
    candidates.push_back({{"favoured", candidate.num_favoured},
                          {"factor", candidate.factor},
                          {"layers", layers_key(candidate.shares)},
                          {"chunks", candidate.cost},
                          {"loss", candidate.loss}});
  }
  const auto* best = result.best();
  return {{"policies", policies},
          {"even_loss", result.even_loss},
          {"gains", result.gains},
          {"candidates", candidates},
          {"layers", best ? Json(layers_key(best->shares)) : Json()}};
}

int run_layers(const LayersArgs& args) {
  if (args.model.adapters.empty())
    core::input_error("train layers: give the adapter whose layers are looked at, --adapter");
  if (args.model.dtype == "file")
    core::input_error("train layers: --dtype file is for answering; give bf16 or f32");
  check_output("train layers: --out", args.out);
  const auto model = ModelSet::load(args.model).preferred();
  std::vector<attention::PolicySpec> policies = make_policies(args, model);
  const train::FtSampler sampler(
      std::make_shared<const train::FtShard>(train::FtShard::open(args.data, model->tokenizer())),
      nullptr, model->tokenizer());
  std::vector<train::Example> examples;
  for (std::int64_t i = 0; i < args.num_rows; ++i)
    examples.push_back(sampler.row({{}, args.row_len, /*seed=*/0, i}));

  ProgressBar progress(!args.is_quiet, ProgressBar::Elsewhere::writes_lines);
  progress.begin("layers", "budgets");
  const std::int64_t num_layers = model->config().num_layers;
  std::int64_t num_done = 0;
  const auto loss_of = [&](std::span<const double> shares) {
    double sum = 0;
    for (attention::PolicySpec& policy : policies) {
      policy.layer_shares.assign(shares.begin(), shares.end());
      sum += train::label_loss(*model, examples, policy).mean();
    }
    progress.update(++num_done, train::num_layer_budgets(num_layers));
    return sum / static_cast<double>(policies.size());
  };
  const ChunkCounter chunks_of(*model, examples, policies);
  const train::LayerBudget result =
      train::find_layer_budget(loss_of, std::cref(chunks_of), num_layers);
  progress.end();
  std::vector<std::string> names;
  for (attention::PolicySpec& policy : policies) {
    policy.layer_shares.clear();
    names.push_back(policy.to_string());
  }
  if (!args.out.empty()) save_adapter(args, policies.front(), result);
  if (args.is_json) {
    fmt::print("{}\n", result_object(result, names).dump());
  } else {
    fmt::print("{}\n\n", fmt::join(names, ", "));
    print_result(result);
  }
  return 0;
}

}  // namespace

Command add_train_layers(CLI::App& app) {
  auto args = std::make_shared<LayersArgs>();
  add_model_options(app, args->model);
  app.add_option("--data", args->data, "shard of training questions, from gsa train prepare ft")
      ->required();
  app.add_option("--chunks", args->chunks, "chunk sizes whose losses count, as 8,16,4-4")
      ->capture_default_str();
  app.add_option("--policy-keys", args->policy_keys,
                 "further keys of the policy gsa, as route=both:read=full");
  app.add_option("--rows", args->num_rows, "rows of questions that are looked at")
      ->check(whole_number(1))
      ->capture_default_str();
  app.add_option("--row-len", args->row_len, "tokens of a row's context, gists included")
      ->check(whole_number(8, 1 << 24))
      ->capture_default_str();
  app.add_option("--out,-o", args->out, "file to write the adapter to, with the budget as a key");
  add_file_dtype_option(app, "--adapter-dtype", args->adapter_dtype, "numbers in that file");
  app.add_flag("--json", args->is_json, "print a JSON object");
  app.add_flag("--quiet", args->is_quiet, "no progress");
  app.footer(examples);
  return [args] { return run_layers(*args); };
}

}  // namespace gsa::apps
