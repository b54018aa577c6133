#include "engine/compare.h"

#include <algorithm>
#include <iterator>
#include <nlohmann/json.hpp>
#include <utility>

#include "engine/memory.h"

namespace gsa::engine {
namespace {

/// A comparison as it runs: policies that one reading serves, one after the other.
class Comparison {
 public:
  Comparison(std::span<const PolicyRun> runs, std::span<const std::string> questions,
             const CompareOptions& options)
      : runs_(runs),
        questions_(questions),
        options_(options),
        generate_(options.generate),
        rows_(runs.size()) {
    generate_.on_token = nullptr;
    for (const PolicyRun& run : runs) sessions_.emplace_back(run.model, run.spec, options.session);
    for (const std::string& question : questions) sessions_.front().check(question, generate_);
  }

  /// Rows in the order of the policies; those that were finished if the run was cancelled.
  std::vector<ResultRow> run(std::span<const std::string> documents) {
    const ContextTokens context = sessions_.front().tokenize(documents);
    for (std::size_t i = 0; i < runs_.size() && !is_cancelled(); ++i) {
      if (rows_[i].empty()) run_group(i, context);
    }
    std::vector<ResultRow> rows;
    for (auto& some : rows_) std::move(some.begin(), some.end(), std::back_inserter(rows));
    return rows;
  }

 private:
  bool is_cancelled() const { return generate_.cancel.stop_requested(); }

  void begin(std::size_t policy) {
    reset_peak_memory();
    if (options_.on_policy) options_.on_policy(runs_[policy].spec.to_string());
  }

  /// Reads the context as a policy does, and answers under all that read it alike.
  void run_group(std::size_t first, const ContextTokens& context) {
    begin(first);
    sessions_[first].read_tokens(context, options_.on_read);
    const auto reading = sessions_[first].reading();
    const std::int64_t reading_peak = peak_memory_bytes();
    for (std::size_t i = first; i < runs_.size() && !is_cancelled(); ++i) {
      if (!rows_[i].empty() || !reading->serves(*runs_[i].model, runs_[i].spec)) continue;
      Session session = std::move(sessions_[i]);
      if (i != first) {
        begin(i);
        session.adopt(reading);
      }
      answer_all(session, reading_peak, rows_[i]);
    }
  }

  void answer_all(Session& session, std::int64_t reading_peak, std::vector<ResultRow>& rows) {
    for (const std::string& question : questions_) {
      ResultRow row = make_row(session, question, session.ask(question, generate_));
      row.peak_memory_bytes = std::max(row.peak_memory_bytes, reading_peak);
      rows.push_back(std::move(row));
      if (options_.on_row) options_.on_row(rows.back());
      if (is_cancelled()) return;
    }
  }

  std::span<const PolicyRun> runs_;
  std::span<const std::string> questions_;
  const CompareOptions& options_;
  GenerateOptions generate_;
  std::vector<Session> sessions_;             // moved out when their policy has run
  std::vector<std::vector<ResultRow>> rows_;  // per policy
};

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
  if (runs.empty() || questions.empty()) return {};
  return Comparison(runs, questions, options).run(documents);
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
