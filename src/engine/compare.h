#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "engine/policy_run.h"
#include "engine/session.h"

namespace gsa::engine {

/// One policy's answer to one question, and what it took.
struct ResultRow {
  std::string policy;
  std::string question;
  std::string answer;
  FinishReason finish_reason = FinishReason::stop;
  std::int64_t context_tokens = 0;
  std::int64_t answer_tokens = 0;
  std::int64_t nominal_ratio = 0;  ///< 0: the notion does not apply
  double fraction_read = 0;
  double prefill_fraction = 0;
  double prefill_seconds = 0;  ///< of the reading, which several rows may share
  double decode_ms_per_token = 0;
  double kv_bytes_per_token = 0;
  /// Largest resident size of the process while the context was read and this policy answered so
  /// far, weights included, readings of other policies not. Where the system cannot reset it (see
  /// `reset_peak_memory`), since the process began.
  std::int64_t peak_memory_bytes = 0;
};

struct CompareOptions {
  SessionOptions session;
  GenerateOptions generate;  ///< `on_token` is not used
  /// Called when a policy begins (with its spec in canonical form) and through its reading.
  std::function<void(const std::string& policy)> on_policy;
  ReadProgress on_read;
  /// Called with every finished row.
  std::function<void(const ResultRow& row)> on_row;
};

/// Runs every policy over the same documents and questions. Policies that read the context alike
/// share one reading, report the seconds that took, and run one after the other, so that one
/// reading at a time is held. The rows returned are in the order of `runs`, question by question;
/// if the run was cancelled, those that were finished.
std::vector<ResultRow> compare(std::span<const PolicyRun> runs,
                               std::span<const std::string> documents,
                               std::span<const std::string> questions,
                               const CompareOptions& options = {});

/// A row of a single answer of a session.
ResultRow make_row(const Session& session, std::string question, const Answer& answer);

/// One JSON object of `--json` results: the fields of ResultRow under their names.
std::string to_json(const ResultRow& row);

}  // namespace gsa::engine
