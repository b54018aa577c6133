#include <CLI/CLI.hpp>
#include <memory>
#include <utility>
#include <vector>

#include "command.h"
#include "train_average.h"
#include "train_layers.h"
#include "train_merge.h"
#include "train_plot.h"
#include "train_prepare.h"
#include "train_run.h"

namespace gsa::apps {
namespace {

constexpr const char* examples = R"(
Training has two stages. cpt teaches the gists to stand for their chunks, on any text; ft teaches
questions to choose chunks and to answer from them. Each takes a shard of token ids that prepare
makes, and writes an adapter that ask, chat, inspect, bench and eval take with --adapter.

Examples:
  gsa train prepare cpt --model smollm2 --data book.txt --data more.jsonl.zst --out text.gsa
  gsa train cpt --model smollm2 --data text.gsa --out run1 --device cuda
  gsa train prepare ft --model smollm2 --data questions.jsonl --out questions.gsa
  gsa train ft --model smollm2 --data questions.gsa --init run1/adapter.safetensors --out run2
  gsa train merge --model smollm2 --adapter run2/adapter.safetensors --out merged.gguf
  gsa train plot run1/log.jsonl run2/log.jsonl --out curves.svg
)";

constexpr const char* stage_examples = R"(
The run writes OUT/log.jsonl, OUT/checkpoints and, at its end, OUT/adapter.safetensors (or the whole
model with --train full). Ctrl-C and SIGTERM save a checkpoint first; the same command with --resume
goes on. Several GPUs or machines: start it with torchrun or mpirun.

Exit codes: 0 done, 1 failure, 2 usage or bad input, 130 and 143 stopped by Ctrl-C and SIGTERM.
)";

using Parts = std::vector<std::pair<CLI::App*, Command>>;

void add_stage(CLI::App& app, Parts& parts, train::DataKind stage, const char* help) {
  CLI::App* sub = app.add_subcommand(std::string(train::data_kind_name(stage)), help);
  auto args = std::make_shared<TrainArgs>();
  args->stage = stage;
  add_train_options(*sub, *args);
  sub->footer(stage_examples);
  parts.emplace_back(sub, [args] { return run_training(*args); });
}

}  // namespace

Command add_train(CLI::App& app) {
  app.require_subcommand(1);
  app.footer(examples);
  auto parts = std::make_shared<Parts>();
  const auto add = [&](const char* name, const char* help, Command (*add_options)(CLI::App&)) {
    CLI::App* sub = app.add_subcommand(name, help);
    parts->emplace_back(sub, add_options(*sub));
  };
  add("prepare", "turn text or questions into shards of token ids", add_train_prepare);
  add_stage(app, *parts, train::DataKind::cpt, "train gists on text (continued pretraining)");
  add_stage(app, *parts, train::DataKind::ft, "train choosing and answering on questions");
  add("layers", "find which layers need more of the budget", add_train_layers);
  add("average", "average adapters that were trained from a common start", add_train_average);
  add("merge", "fold an adapter into the weights of its model", add_train_merge);
  add("plot", "draw the curves of runs", add_train_plot);
  return [parts] {
    for (const auto& [sub, run] : *parts)
      if (sub->parsed()) return run();
    return exit_usage;  // not reached: one subcommand is required
  };
}

}  // namespace gsa::apps
