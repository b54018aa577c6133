#include "train_plot.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "core/file.h"
#include "options.h"
#include "train/plot.h"

namespace gsa::apps {
namespace {

constexpr const char* examples = R"(
Example:
  gsa train plot run1/log.jsonl run2/log.jsonl --out curves.svg
)";

struct PlotArgs {
  std::vector<std::string> logs;
  std::string out;
};

/// The folder of a log, which names its run, or else the file.
std::string run_name(const std::filesystem::path& log) {
  const auto folder = log.parent_path().filename();
  return log.filename() == "log.jsonl" && !folder.empty() ? folder.string() : log.stem().string();
}

int run_plot(const PlotArgs& args) {
  std::vector<train::RunCurves> runs;
  for (const std::string& log : args.logs) runs.push_back(train::read_curves(log, run_name(log)));
  check_output("train plot: --out", args.out, args.logs);
  core::write_file_atomic(args.out, train::plot_svg(runs));
  fmt::print("{}\n", args.out);
  return 0;
}

}  // namespace

Command add_train_plot(CLI::App& app) {
  auto args = std::make_shared<PlotArgs>();
  app.add_option("logs", args->logs, "logs of runs (log.jsonl)")->required();
  app.add_option("--out,-o", args->out, "the picture, as SVG")->required();
  app.footer(examples);
  return [args] { return run_plot(*args); };
}

}  // namespace gsa::apps
