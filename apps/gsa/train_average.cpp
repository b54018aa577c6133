#include "train_average.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "find_model.h"
#include "model/average.h"
#include "number_checks.h"
#include "options.h"
#include "terminal.h"
#include "train_options.h"

namespace gsa::apps {
namespace {

constexpr const char* examples = R"(
Adapters that were trained from a common start (--init), on other data, tasks or ways of reading, are
often better together than each alone; whether they were is not checked. Their updates are averaged
and cut back to one rank, and the result says which share of their squared norm that left out (in
JSON: lost). Policy keys are those of the first.

Example:
  gsa train average run1/adapter.safetensors run2/adapter.safetensors --out both.safetensors
)";

struct AverageArgs {
  std::vector<std::string> adapters;
  std::string out, adapter_dtype = "bf16";
  std::int64_t rank = 0;
  bool is_json = false;
};

int run_average(const AverageArgs& args) {
  std::vector<model::Adapter> adapters;
  std::vector<std::string> paths;
  for (const std::string& name : args.adapters)
    adapters.push_back(model::Adapter::load(paths.emplace_back(find_adapter(name).string())));
  check_output("train average: --out", args.out, paths);
  const auto [average, lost] = model::average_adapters(adapters, args.rank);
  for (const model::Adapter& adapter : adapters) {
    if (adapter.info.policy_keys == average.info.policy_keys) continue;
    const std::string& keys = average.info.policy_keys;
    print_note(
        fmt::format("the adapters differ in their policy keys; those of the first are kept: {}",
                    keys.empty() ? "none" : keys));
    break;
  }
  average.save(args.out, parse_file_dtype(args.adapter_dtype));
  if (args.is_json) {
    const nlohmann::ordered_json result = {
        {"file", args.out}, {"rank", average.info.lora_rank}, {"lost", lost}};
    fmt::print("{}\n", result.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace));
  } else {
    fmt::print("rank {} leaves out {:.1f} % of the squared norm of the mean updates\n{}\n",
               average.info.lora_rank, 100 * lost, args.out);
  }
  return 0;
}

}  // namespace

Command add_train_average(CLI::App& app) {
  auto args = std::make_shared<AverageArgs>();
  app.add_option("adapters", args->adapters, "two adapters or more, files or known names")
      ->required()
      ->expected(2, 64);
  app.add_option("--out,-o", args->out, "file of the averaged adapter")->required();
  app.add_option("--rank", args->rank, "rank of its updates (default: that of the first)")
      ->check(whole_number(1, 4096));
  add_file_dtype_option(app, "--adapter-dtype", args->adapter_dtype, "numbers in that file");
  app.add_flag("--json", args->is_json, "print a JSON object");
  app.footer(examples);
  return [args] { return run_average(*args); };
}

}  // namespace gsa::apps
