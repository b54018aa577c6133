#pragma once

#include <csignal>
#include <initializer_list>
#include <mutex>
#include <stop_token>
#include <thread>

namespace gsa::apps {

/// Thrown to leave work that Ctrl-C stopped.
struct Interrupted {};

/// Turns Ctrl-C, and other signals if wanted, into a request to stop. Make it before any other
/// thread starts: the signals are blocked in all of them and waited for in one of its own. While no
/// work is under way, and when one comes a second time, it ends the program at once with exit code
/// 128 + its number (130 for Ctrl-C).
class Interrupt {
 public:
  explicit Interrupt(std::initializer_list<int> signals = {SIGINT});
  ~Interrupt();
  Interrupt(const Interrupt&) = delete;
  Interrupt& operator=(const Interrupt&) = delete;

  /// Exit code of the signal that stopped the work: 128 + its number.
  int exit_code();

  /// While it lives, work is under way that Ctrl-C asks to stop.
  class Work {
   public:
    explicit Work(Interrupt& interrupt) : interrupt_(interrupt), token_(interrupt.begin_work()) {}
    ~Work() { interrupt_.end_work(); }
    Work(const Work&) = delete;
    Work& operator=(const Work&) = delete;

    const std::stop_token& token() const { return token_; }
    /// Throws Interrupted once Ctrl-C was pressed.
    void check() const {
      if (token_.stop_requested()) throw Interrupted();
    }

   private:
    Interrupt& interrupt_;
    std::stop_token token_;
  };

 private:
  std::stop_token begin_work();
  void end_work();
  void wait_for_signals();

  sigset_t signals_;
  std::mutex mutex_;  // guards what follows
  std::stop_source source_;
  bool is_working_ = false;
  bool is_closing_ = false;
  int last_signal_ = SIGINT;

  std::thread waiter_;
};

}  // namespace gsa::apps
