#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "attention/layout.h"
#include "engine/session.h"
#include "eval/report.h"

namespace gsa::eval {

/// What the query that gives the first token of an answer sees in one layer.
struct LayerDiagnosis {
  std::int64_t layer = 0;
  bool selects = false;  ///< whether the policy chooses in this layer
  /// Per KV head: share of the tokens that hold the answer which are visible, 0 to 1.
  std::vector<double> answer_recall;
  /// Per query head: share of full attention (this layer's queries over all raw keys) that falls on
  /// raw keys which are visible, 0 to 1.
  std::vector<double> mass_recovered;
  /// Entropy, in nats, of the context tokens that were chosen over the chunks they lie in, all KV
  /// heads together: its exponential is the number of chunks that the layer effectively looks at. 0
  /// if nothing is chosen.
  double choice_entropy = 0;
  /// The layer's row of the heat map. Per chunk: share of its tokens that are visible, averaged
  /// over KV heads, 0 to 1.
  std::vector<double> visible_share;
};

/// What a policy saw of a context with a known answer.
struct Diagnosis {
  std::string policy;
  std::string question;
  std::int64_t context_tokens = 0;
  std::vector<attention::Range> answer;  ///< raw tokens that hold the answer
  /// Columns of the heat map: the policy's chunks, or runs of 16 tokens if it has none.
  std::vector<attention::Range> chunks;
  std::vector<LayerDiagnosis> layers;  ///< of the model, in order

  /// Over all layers and heads; over those layers only in which the policy chooses, if there are
  /// any.
  double mean_answer_recall() const;
  double mean_mass_recovered() const;
};

/// Raw tokens of a session's context whose text holds `answer`, once per place where it occurs.
/// ASCII letters match in either case. Empty if it occurs nowhere or is empty.
std::vector<attention::Range> find_answer(const engine::Session& session, std::string_view answer);

/// Runs a question behind the context that the session has read, without generating. The session's
/// conversation is left as it is. Input error if nothing was read, if the question is empty, or if
/// a range lies outside the context.
Diagnosis diagnose(const engine::Session& session, std::string_view question,
                   std::span<const attention::Range> answer);

/// The same for a prompt that is tokens already, as `Session::ask_tokens` takes it.
Diagnosis diagnose_tokens(const engine::Session& session, std::span<const std::int64_t> prompt,
                          std::span<const attention::Range> answer);

/// Grids for a report, each the mean over diagnoses of one policy and model (at least one): recall
/// of the answer by layer and KV head (items with a known answer only), attention recovered by
/// layer and query head, what is visible by layer and depth in the context (in 20 steps), and the
/// number of chunks that a layer effectively looks at. Internal error if the diagnoses are of
/// models with different layers or heads.
std::vector<HeatMap> heat_maps(std::span<const Diagnosis> diagnoses);

/// One JSON object: the fields under their names, ranges as [begin, end], shares rounded to 4
/// digits.
std::string to_json(const Diagnosis& diagnosis);

}  // namespace gsa::eval
