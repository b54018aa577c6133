#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>

#include "eval/runner.h"
#include "eval/task.h"

namespace gsa::apps {

/// What `gsa eval` says beside its results, in a line each. Empty where nothing is to be said.

/// How far a run is that has not ended.
std::string partial_note(std::span<const eval::Finished> tasks);

/// Of answers that are cut off before the length of their task's format.
std::string short_answers_note(std::span<const eval::Task> tasks,
                               std::optional<std::int64_t> max_tokens);

/// Of a process whose own share is done.
std::string waiting_note(std::int64_t num_missing, std::int64_t num_total,
                         const std::string& records);

/// What becomes of the answers of a run that is left.
std::string stop_note(const std::string& records, int num_processes);

}  // namespace gsa::apps
