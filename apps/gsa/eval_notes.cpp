#include "eval_notes.h"

#include <fmt/ranges.h>

#include <vector>

#include "eval/perplexity.h"

namespace gsa::apps {

std::string partial_note(std::span<const eval::Finished> tasks) {
  std::int64_t num_items = 0, num_total = 0;
  std::vector<std::string> open;
  for (const auto& [name, count, total] : tasks) {
    num_items += count;
    num_total += total;
    if (count == total) continue;
    open.push_back(count == 0 ? fmt::format("task {} none", name)
                              : fmt::format("task {} {} of {}", name, count, total));
  }
  if (open.empty()) return "";
  return fmt::format("{} of {} items are finished: {}", num_items, num_total,
                     fmt::join(open, ", "));
}

std::string short_answers_note(std::span<const eval::Task> tasks,
                               std::optional<std::int64_t> max_tokens) {
  std::vector<std::string> cut;
  for (const eval::Task& task : tasks) {
    if (max_tokens && !eval::is_perplexity(task) && *max_tokens < task.format.max_tokens)
      cut.push_back(fmt::format("{} ({})", task.name, task.format.max_tokens));
  }
  if (cut.empty()) return "";
  return fmt::format("--max-tokens {} is less than the formats allow for answers of {}",
                     *max_tokens, fmt::join(cut, ", "));
}

std::string waiting_note(std::int64_t num_missing, std::int64_t num_total,
                         const std::string& records) {
  return fmt::format(
      "waiting for other processes: {} of {} items are missing; if one was lost, start again, "
      "which goes on from {}",
      num_missing, num_total, records);
}

std::string stop_note(const std::string& records, int num_processes) {
  if (records.empty()) return "stopped: the answers so far are lost, as there is no --records";
  return fmt::format(
      "stopped: finished answers are kept in {}{}; the same command goes on from there", records,
      num_processes > 1 ? ".rank*" : "");
}

}  // namespace gsa::apps
