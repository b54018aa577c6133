#pragma once

#include <chrono>
#include <cstdint>
#include <string>

namespace gsa::apps {

/// A progress bar in one line of stderr. Draws nothing unless stderr is a terminal.
class ProgressBar {
 public:
  explicit ProgressBar(bool is_wanted);
  ~ProgressBar();
  ProgressBar(const ProgressBar&) = delete;
  ProgressBar& operator=(const ProgressBar&) = delete;

  /// Starts anew under a label; `unit` is what is counted.
  void begin(std::string label, std::string unit = "tokens");
  /// Draws at most ten times a second, and the last step always.
  void update(std::int64_t done, std::int64_t total);
  /// Removes the bar.
  void end();

  /// Puts a line where the bar stands, in place of the one before.
  static void draw_line(const std::string& line);
  /// Makes room for another line on stderr if a bar stands there.
  static void clear_line();

 private:
  bool is_enabled_;
  std::string label_, unit_;
  std::chrono::steady_clock::time_point start_;
  std::chrono::steady_clock::time_point last_drawn_;
};

/// The line that a bar shows: label, bar, `done/total unit`, seconds left (unknown: -1).
std::string progress_line(const std::string& label, std::int64_t done, std::int64_t total,
                          double seconds_left, const std::string& unit = "tokens");

}  // namespace gsa::apps
