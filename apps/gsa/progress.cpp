#include "progress.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <utility>

#include "terminal.h"

namespace gsa::apps {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::int64_t bar_width = 28;
constexpr std::chrono::milliseconds redraw_interval{100};

bool is_drawn = false;  // there is one stderr

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

}  // namespace

ProgressBar::ProgressBar(bool is_wanted, Elsewhere elsewhere)
    : is_enabled_(is_wanted && stderr_is_terminal()),
      writes_lines_(is_wanted && !is_enabled_ && elsewhere == Elsewhere::writes_lines) {}

ProgressBar::~ProgressBar() { end(); }

void ProgressBar::begin(std::string label, std::string unit) {
  end();
  label_ = std::move(label);
  unit_ = std::move(unit);
  start_ = Clock::now();
  last_drawn_ = writes_lines_ ? start_ : Clock::time_point{};
  last_written_ = 0;
  update(0, 0);
}

void ProgressBar::update(std::int64_t done, std::int64_t total) {
  if (writes_lines_) write_line(done, total);
  if (!is_enabled_) return;
  const auto now = Clock::now();
  if (done < total && now - last_drawn_ < redraw_interval) return;
  last_drawn_ = now;
  const double seconds_left = done > 0 ? seconds_since(start_) * static_cast<double>(total - done) /
                                             static_cast<double>(done)
                                       : -1;
  draw_line(progress_line(label_, done, total, seconds_left, unit_));
}

void ProgressBar::write_line(std::int64_t done, std::int64_t total) {
  const auto now = Clock::now();
  if (total <= 0 || !is_line_due(done - last_written_, total, now - last_drawn_)) return;
  last_drawn_ = now;
  last_written_ = done;
  print_note(
      fmt::format("{}: {} of {} {}", label_, format_count(done), format_count(total), unit_));
}

void ProgressBar::end() { clear_line(); }

void ProgressBar::draw_line(const std::string& line) {
  fmt::print(stderr, "\r{}\033[K", line);
  std::fflush(stderr);
  is_drawn = true;
}

void ProgressBar::clear_line() {
  if (!is_drawn) return;
  fmt::print(stderr, "\r\033[K");
  std::fflush(stderr);
  is_drawn = false;
}

std::string progress_line(const std::string& label, std::int64_t done, std::int64_t total,
                          double seconds_left, const std::string& unit) {
  if (total <= 0) return label + " ...";
  const std::int64_t filled = std::clamp<std::int64_t>(bar_width * done / total, 0, bar_width);
  std::string bar(static_cast<std::size_t>(filled), '#');
  bar.resize(bar_width, '.');
  std::string line =
      fmt::format("{} [{}] {}/{} {}", label, bar, format_count(done), format_count(total), unit);
  if (seconds_left >= 0.5) line += fmt::format(", {:.0f} s left", seconds_left);
  return line;
}

bool is_line_due(std::int64_t num_more, std::int64_t total, Clock::duration since_last) {
  constexpr std::chrono::seconds longest_silence{60}, shortest_silence{5};
  const bool is_step = 10 * num_more >= total && since_last >= shortest_silence;
  return is_step || since_last >= longest_silence;
}

}  // namespace gsa::apps
