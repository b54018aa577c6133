#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <utility>

#include "bench_infer.h"
#include "table.h"
#include "terminal.h"

namespace gsa::apps {
namespace {

using Json = nlohmann::ordered_json;
using Task = BenchInferArgs::Task;

Json to_json(const InferTimes& result, Task task, const MachineSpeed& machine) {
  const Samples& ms = result.ms_per_token;
  Json row = {{"policy", result.policy},
              {"context", result.context},
              {"store", result.has_random_store ? "random" : "read"},
              {"ms_per_token", ms.median()},
              {"tokens_per_second", result.per_second(1)},
              {"fraction_read", result.fraction_read},
              {"ms_per_token_min", ms.min()},
              {"ms_per_token_max", ms.max()},
              {"reps", ms.values.size()}};
  if (task == Task::decode) {
    row["weight_bytes_per_token"] = result.weight_bytes_per_token;
    row["kv_bytes_per_token"] = result.kv_bytes_per_token;
    row["bytes_per_token"] = result.bytes_per_token();
    row["share_of_stream"] =
        result.per_second(result.bytes_per_token()) / machine.stream_bytes_per_second;
  } else {
    row["flops_per_token"] = result.flops_per_token;
    row["share_of_peak"] = result.per_second(result.flops_per_token) / machine.peak_flops;
  }
  row["store_bytes"] = result.store_bytes;
  row["peak_memory_bytes"] = result.peak_memory_bytes;
  return row;
}

}  // namespace

const char* task_name(Task task) { return task == Task::prefill ? "prefill" : "decode"; }

std::string to_json(const BenchInferArgs& args, const InferHeader& header,
                    const std::vector<InferTimes>& results) {
  Json rows = Json::array();
  for (const InferTimes& result : results)
    rows.push_back(to_json(result, args.task, header.machine));
  const Json object = {{"task", task_name(args.task)},
                       {"model", args.model.model},
                       {"dtype", header.dtype},
                       {"device", header.device},
                       {"threads", header.num_threads},
                       {"cold", args.is_cold},
                       {"load_seconds", header.load_seconds},
                       {"load_peak_memory_bytes", header.load_peak_memory_bytes},
                       {"stream_bytes_per_second", header.machine.stream_bytes_per_second},
                       {"peak_flops", header.machine.peak_flops},
                       {"results", std::move(rows)}};
  return object.dump(2, ' ', false, Json::error_handler_t::replace);
}

std::string to_table(const BenchInferArgs& args, const InferHeader& header,
                     const std::vector<InferTimes>& results) {
  using enum Table::Align;
  const bool is_decode = args.task == Task::decode;
  Table table({{"policy", left},
               {"context", right},
               {"ms/token", right},
               {"min", right},
               {"max", right},
               {"tokens/s", right},
               {"keys read", right},
               {is_decode ? "MB/token" : "MFLOP/token", right},
               {is_decode ? "of stream" : "of peak", right},
               {"memory", right}});
  for (const InferTimes& result : results) {
    const Samples& ms = result.ms_per_token;
    const double amount = is_decode ? result.bytes_per_token() : result.flops_per_token;
    const double limit =
        is_decode ? header.machine.stream_bytes_per_second : header.machine.peak_flops;
    table.add_row({brief_policy(result.policy),
                   format_count(result.context) + (result.has_random_store ? "*" : ""),
                   fmt::format("{:.3f}", ms.median()), fmt::format("{:.3f}", ms.min()),
                   fmt::format("{:.3f}", ms.max()), fmt::format("{:.1f}", result.per_second(1)),
                   format_percent(result.fraction_read), fmt::format("{:.1f}", amount / 1e6),
                   format_percent(result.per_second(amount) / limit),
                   format_bytes(static_cast<double>(result.peak_memory_bytes))});
  }
  const bool has_random = std::any_of(results.begin(), results.end(),
                                      [](const auto& row) { return row.has_random_store; });
  return fmt::format(
      "{} of {} in {} on {}, {} threads, loaded in {:.2f} s\n"
      "memory is read at {:.1f} GB/s, large products run at {:.0f} GFLOP/s\n{}{}{}",
      task_name(args.task), args.model.model, header.dtype, header.device, header.num_threads,
      header.load_seconds, header.machine.stream_bytes_per_second / 1e9,
      header.machine.peak_flops / 1e9, table.to_string(terminal_width()),
      has_random ? "* random keys and values\n" : "",
      args.is_cold ? "caches were emptied before every token\n" : "");
}

}  // namespace gsa::apps
