#include "engine/compare.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <utility>

#include "engine/memory.h"

namespace gsa::engine {
namespace {

/// The first reading that serves a policy; nullptr for none.
std::shared_ptr<const Reading> find_reading(
    const std::vector<std::shared_ptr<const Reading>>& readings, const PolicyRun& run) {
  const auto found = std::find_if(readings.begin(), readings.end(), [&](const auto& reading) {
    return reading->serves(*run.model, run.spec);
  });
  return found == readings.end() ? nullptr : *found;
}

/// Whether a policy from `begin` on can use a reading: others need not be kept.
bool is_needed(const Reading& reading, std::span<const PolicyRun> later) {
  return std::any_of(later.begin(), later.end(),
                     [&](const PolicyRun& run) { return reading.serves(*run.model, run.spec); });
}

}  // namespace

ResultRow make_row(const Session& session, std::string question, const Answer& answer) {
  return {.policy = session.policy().to_string(),
          .question = std::move(question),
          .answer = answer.text,
          .finish_reason = answer.finish_reason,
          .context_tokens = session.reading()->num_tokens(),
          .answer_tokens = answer.num_tokens,
          .nominal_ratio = session.policy().nominal_ratio(),
          .fraction_read = answer.fraction_read,
          .prefill_fraction = session.prefill_fraction(),
          .prefill_seconds = session.prefill_seconds(),
          .decode_ms_per_token = answer.decode_ms_per_token(),
          .kv_bytes_per_token = answer.kv_bytes_per_token,
          .peak_memory_bytes = peak_memory_bytes()};
}

std::vector<ResultRow> compare(std::span<const PolicyRun> runs,
                               std::span<const std::string> documents,
                               std::span<const std::string> questions,
                               const CompareOptions& options) {
  std::vector<ResultRow> rows;
  if (runs.empty() || questions.empty()) return rows;
  GenerateOptions generate = options.generate;
  generate.on_token = nullptr;

  std::vector<Session> sessions;
  for (const PolicyRun& run : runs) sessions.emplace_back(run.model, run.spec, options.session);
  for (const std::string& question : questions) sessions.front().check(question, generate);
  const ContextTokens context = sessions.front().tokenize(documents);

  std::vector<std::shared_ptr<const Reading>> readings;
  for (std::size_t i = 0; i < runs.size(); ++i) {
    Session session = std::move(sessions[i]);
    reset_peak_memory();
    if (options.on_policy) options.on_policy(runs[i].spec.to_string());
    if (auto reading = find_reading(readings, runs[i])) {
      session.adopt(std::move(reading));
    } else {
      session.read_tokens(context, options.on_read);
      readings.push_back(session.reading());
    }
    for (const std::string& question : questions) {
      rows.push_back(make_row(session, question, session.ask(question, generate)));
      if (options.on_row) options.on_row(rows.back());
      if (generate.cancel.stop_requested()) return rows;
    }
    std::erase_if(readings,
                  [&](const auto& reading) { return !is_needed(*reading, runs.subspan(i + 1)); });
  }
  return rows;
}

std::string to_json(const ResultRow& row) {
  const nlohmann::ordered_json object = {{"policy", row.policy},
                                         {"question", row.question},
                                         {"answer", row.answer},
                                         {"finish_reason", finish_reason_name(row.finish_reason)},
                                         {"context_tokens", row.context_tokens},
                                         {"answer_tokens", row.answer_tokens},
                                         {"nominal_ratio", row.nominal_ratio},
                                         {"fraction_read", row.fraction_read},
                                         {"prefill_fraction", row.prefill_fraction},
                                         {"prefill_seconds", row.prefill_seconds},
                                         {"decode_ms_per_token", row.decode_ms_per_token},
                                         {"kv_bytes_per_token", row.kv_bytes_per_token},
                                         {"peak_memory_bytes", row.peak_memory_bytes}};
  return object.dump();
}

}  // namespace gsa::engine
