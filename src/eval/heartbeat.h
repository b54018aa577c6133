#pragma once

#include <chrono>
#include <filesystem>

namespace gsa::eval {

/// Tells processes that wait for a file that this one still works on it: a file beside it that is
/// written again now and then, and removed at the end.
class Heartbeat {
 public:
  using Clock = std::chrono::steady_clock;

  /// Empty path: nobody waits.
  explicit Heartbeat(std::filesystem::path path,
                     Clock::duration interval = std::chrono::seconds(10));
  Heartbeat(const Heartbeat&) = delete;
  Heartbeat& operator=(const Heartbeat&) = delete;
  ~Heartbeat();

  /// Writes the file if the last time is an interval ago. Resource error if that fails.
  void beat();

 private:
  void write();

  std::filesystem::path path_;
  Clock::duration interval_;
  Clock::time_point last_;
};

/// Waits for other processes as long as they write.
class Watch {
 public:
  /// `prefix` begins the paths of the files that they write.
  Watch(std::filesystem::path prefix, Heartbeat::Clock::duration patience);

  /// Whether none of the files has changed for longer than the patience.
  bool is_over();

 private:
  std::filesystem::file_time_type newest_change() const;

  std::filesystem::path prefix_;
  Heartbeat::Clock::duration patience_;
  std::filesystem::file_time_type last_change_;
  Heartbeat::Clock::time_point last_sign_;
};

}  // namespace gsa::eval
