#include "train_progress.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdio>

#include "progress.h"
#include "terminal.h"
#include "train/flops.h"

namespace gsa::apps {
namespace {

constexpr std::int64_t lines_per_run = 50;
constexpr double seconds_shown = 3;  // a live line tells the speed of at least so long

/// "1:02:03" or "2:03"
std::string format_time(double seconds) {
  const auto total = static_cast<std::int64_t>(std::llround(seconds));
  const std::int64_t hours = total / 3600, minutes = total / 60 % 60;
  if (hours > 0) return fmt::format("{}:{:02}:{:02}", hours, minutes, total % 60);
  return fmt::format("{}:{:02}", minutes, total % 60);
}

}  // namespace

double TrainSpeed::share(std::int64_t num_tokens, std::int64_t num_labels, double seconds) const {
  if (peak_flops <= 0 || seconds <= 0) return 0;
  return train::step_flops(config, trained, num_tokens, num_labels) / seconds / peak_flops;
}

void TrainProgress::Span::add(const train::StepRecord& record) {
  tokens += record.step_tokens;
  labels += record.num_labels;
  steps += 1;
  end = record.seconds;
}

TrainProgress::TrainProgress(bool is_wanted, std::int64_t num_steps, TrainSpeed speed)
    : is_wanted_(is_wanted),
      is_terminal_(stderr_is_terminal()),
      num_steps_(num_steps),
      steps_per_line_(std::max<std::int64_t>(1, num_steps / lines_per_run)),
      speed_(std::move(speed)) {}

TrainProgress::~TrainProgress() { ProgressBar::clear_line(); }

void TrainProgress::step(const train::StepRecord& record) {
  if (!has_begun_) {
    has_begun_ = true;
    all_.begin = all_.end = recent_.begin = recent_.end = record.seconds;
    if (is_wanted_ && !is_terminal_) fmt::print(stderr, "{}\n", line(record, recent_));
    return;
  }
  all_.add(record);
  recent_.add(record);
  if (!is_wanted_) return;
  if (is_terminal_) {
    ProgressBar::draw_line(line(record, recent_));
  } else if (record.step % steps_per_line_ == 0 || record.step == num_steps_) {
    fmt::print(stderr, "{}\n", line(record, recent_));
  } else {
    return;
  }
  if (is_terminal_ && recent_.seconds() < seconds_shown) return;
  recent_ = {.begin = record.seconds, .end = record.seconds};
}

std::string TrainProgress::line(const train::StepRecord& record, const Span& span) const {
  std::string text = fmt::format("step {}/{}: loss {:.4f}", record.step, num_steps_, record.loss);
  if (record.routing) text += fmt::format(", routing {:.4f}", *record.routing);
  if (span.seconds() <= 0) return text;
  text += fmt::format(", {} tokens/s", format_count(static_cast<std::int64_t>(std::llround(
                                           static_cast<double>(span.tokens) / span.seconds()))));
  if (speed_.peak_flops > 0) {
    text += fmt::format(", {} of the peak",
                        format_percent(speed_.share(span.tokens, span.labels, span.seconds())));
  }
  const double left = static_cast<double>(num_steps_ - record.step) * span.seconds() /
                      static_cast<double>(span.steps);
  return text + fmt::format(", {} left", format_time(left));
}

void TrainProgress::scores(std::int64_t step, const train::Scores& scores) {
  if (!is_wanted_) return;
  ProgressBar::clear_line();
  fmt::print(stderr, "step {}/{}: validation loss {}\n", step, num_steps_, format_scores(scores));
}

double TrainProgress::tokens_per_second() const {
  return all_.seconds() > 0 ? static_cast<double>(all_.tokens) / all_.seconds() : 0;
}

double TrainProgress::share_of_peak() const {
  return speed_.share(all_.tokens, all_.labels, all_.seconds());
}

std::string format_scores(const train::Scores& scores) {
  std::string text;
  for (const auto& [name, loss] : scores)
    text += fmt::format("{}{} {:.4f}", text.empty() ? "" : ", ", name, loss);
  return text;
}

}  // namespace gsa::apps
