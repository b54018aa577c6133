#pragma once

#include <cstdint>
#include <string>

#include "model/config.h"
#include "train/parameters.h"
#include "train/train_log.h"

namespace gsa::apps {

/// What a run computes per second, for its share of the device's peak.
struct TrainSpeed {
  model::ModelConfig config;
  train::Trained trained = train::Trained::lora;
  double peak_flops = 0;  ///< per second, of all devices together; 0: not known

  /// Share of the peak that steps with so many tokens and labels reach.
  double share(std::int64_t num_tokens, std::int64_t num_labels, double seconds) const;
};

/// Shows how a training goes, on stderr: one line that is redrawn on a terminal, otherwise a line
/// every few steps.
class TrainProgress {
 public:
  TrainProgress(bool is_wanted, std::int64_t num_steps, TrainSpeed speed);
  ~TrainProgress();
  TrainProgress(const TrainProgress&) = delete;
  TrainProgress& operator=(const TrainProgress&) = delete;

  void step(const train::StepRecord& record);
  void scores(std::int64_t step, const train::Scores& scores);

  /// Since this object began, without the first step, which warms up; 0 before there are two.
  double tokens_per_second() const;
  double share_of_peak() const;
  double peak_flops() const { return speed_.peak_flops; }

 private:
  /// Steps whose speed is told as one.
  struct Span {
    std::int64_t tokens = 0, labels = 0, steps = 0;
    double begin = 0, end = 0;  // in seconds of the run
    void add(const train::StepRecord& record);
    double seconds() const { return end - begin; }
  };

  std::string line(const train::StepRecord& record, const Span& span) const;

  bool is_wanted_, is_terminal_;
  std::int64_t num_steps_, steps_per_line_;
  TrainSpeed speed_;
  Span all_, recent_;
  bool has_begun_ = false;
};

/// "full 3.354, 8 3.581"
std::string format_scores(const train::Scores& scores);

}  // namespace gsa::apps
