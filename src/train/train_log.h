#pragma once

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace gsa::train {

/// What one step of training did.
struct StepRecord {
  std::int64_t step = 0;  ///< steps done, this one included
  double loss = 0;        ///< mean over the labels, in nats
  double lr = 0;
  double grad_norm = 0;           ///< before clipping
  std::optional<double> routing;  ///< nats, without its weight; only if it is trained
  double tokens_per_second = 0;
  std::int64_t num_tokens = 0;   ///< of the run so far, gists included
  std::int64_t num_raw = 0;      ///< of the run so far, raw tokens
  double seconds = 0;            ///< of the run so far
  std::int64_t step_tokens = 0;  ///< of this step, gists included
  std::int64_t num_labels = 0;   ///< of this step
};

/// Mean losses by chunk sizes, with keys that not all have ("full", "8", "8:read=full").
using Scores = std::vector<std::pair<std::string, double>>;

/// {"full": 3.35, "8": 3.58}
std::string scores_json(const Scores& scores);

/// The record of a run as JSON Lines: {"step", "loss", "lr", "grad_norm", "tokens_per_second",
/// "tokens", "raw_tokens", "seconds"} for a step, with "routing" if that is trained, {"step",
/// "eval": {...}} for an evaluation. A write that fails warns once and never stops the run.
class TrainLog {
 public:
  /// Goes on with a file after the lines of steps up to `step`; later ones, of a run that was cut
  /// off, are dropped.
  TrainLog(std::filesystem::path path, std::int64_t step);

  void add(const StepRecord& record);
  void add(std::int64_t step, const Scores& scores);

 private:
  void write(const std::string& line);

  std::filesystem::path path_;
  std::ofstream stream_;
  bool has_warned_ = false;
};

}  // namespace gsa::train
