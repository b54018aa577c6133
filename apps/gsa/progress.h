#pragma once

#include <chrono>
#include <cstdint>
#include <string>

namespace gsa::apps {

/// A progress bar in one line of stderr.
class ProgressBar {
 public:
  /// What it does if stderr is no terminal.
  enum class Elsewhere {
    draws_nothing,
    writes_lines,  ///< few and none at first: see `is_line_due`
  };

  explicit ProgressBar(bool is_wanted, Elsewhere elsewhere = Elsewhere::draws_nothing);
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
  void write_line(std::int64_t done, std::int64_t total);

  bool is_enabled_;
  bool writes_lines_;
  std::string label_, unit_;
  std::chrono::steady_clock::time_point start_;
  std::chrono::steady_clock::time_point last_drawn_;
  std::int64_t last_written_ = 0;  ///< of `done`
};

/// The line that a bar shows: label, bar, `done/total unit`, seconds left (unknown: -1).
std::string progress_line(const std::string& label, std::int64_t done, std::int64_t total,
                          double seconds_left, const std::string& unit = "tokens");

/// Whether a log is to hear of progress: `num_more` of `total` since the last line, or since the
/// beginning. Every minute, and for each tenth if that took five seconds.
bool is_line_due(std::int64_t num_more, std::int64_t total,
                 std::chrono::steady_clock::duration since_last);

}  // namespace gsa::apps
