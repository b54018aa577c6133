#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "engine/compare.h"
#include "eval/entrant.h"
#include "eval/record.h"
#include "eval/task.h"

namespace gsa::eval {

/// How items are answered.
struct AnswerOptions {
  engine::SessionOptions session;    ///< `prompt` is taken from the task
  engine::GenerateOptions generate;  ///< `max_tokens` unset: the task's
  /// Longest prompt with its answer, in tokens; longer items are cut in the middle, or refused if
  /// they stand for a length (`is_uncut`). Unset: what the model was trained for.
  std::optional<std::int64_t> max_context;
  engine::ReadProgress on_read;
};

/// An item as models are given it: tokens, of which those of the context are read.
struct PreparedItem {
  const Task* task = nullptr;
  const TaskItem* item = nullptr;
  engine::ContextTokens context;
  std::vector<std::int64_t> prompt;  ///< of a text to be predicted: that text
  bool is_truncated = false;

  std::int64_t num_context() const { return static_cast<std::int64_t>(context.ids.size()); }
};

/// Whether an item is of a length, or its answer at a depth, that cutting would falsify: a
/// generated one.
bool is_uncut(const Task& task, const TaskItem& item);

/// Cuts the middle out of an item that is too long and makes its tokens. Input error if the
/// question alone is too long, or an item that must stay as it is.
PreparedItem prepare_item(const Task& task, const TaskItem& item,
                          const std::shared_ptr<const model::Model>& model,
                          const AnswerOptions& options);

/// A session for items of a task.
engine::Session make_session(const Task& task, const engine::PolicyRun& run,
                             const AnswerOptions& options);

/// Lets entrants answer items of one task. `wanted` says, per item, which of them are to. A context
/// is read once for all entrants that read it alike, and each entrant answers all items at a time.
/// The records are per item in the order of the entrants; those not wanted are left out. If the run
/// is cancelled (`generate.cancel`), records are missing.
std::vector<std::vector<Record>> answer_items(std::span<const PreparedItem> items,
                                              std::span<const Entrant> entrants,
                                              std::span<const std::vector<bool>> wanted,
                                              const AnswerOptions& options);

}  // namespace gsa::eval
