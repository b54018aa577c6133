#include "interrupt.h"

#include <pthread.h>
#include <signal.h>
#include <unistd.h>

#include "command.h"

namespace gsa::apps {
namespace {

sigset_t watched_signals() {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGINT);
  return signals;
}

}  // namespace

Interrupt::Interrupt() {
  const sigset_t signals = watched_signals();
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  waiter_ = std::thread([this] { wait_for_signals(); });
}

Interrupt::~Interrupt() {
  {
    const std::lock_guard lock(mutex_);
    is_closing_ = true;
  }
  pthread_kill(waiter_.native_handle(), SIGINT);  // wakes it
  waiter_.join();
  const sigset_t signals = watched_signals();
  pthread_sigmask(SIG_UNBLOCK, &signals, nullptr);
}

std::stop_token Interrupt::begin_work() {
  const std::lock_guard lock(mutex_);
  source_ = std::stop_source();
  is_working_ = true;
  return source_.get_token();
}

void Interrupt::end_work() {
  const std::lock_guard lock(mutex_);
  is_working_ = false;
}

void Interrupt::wait_for_signals() {
  const sigset_t signals = watched_signals();
  while (true) {
    int signal = 0;
    if (sigwait(&signals, &signal) != 0) continue;
    const std::lock_guard lock(mutex_);
    if (is_closing_) return;
    // request_stop is false if it was requested before: the second Ctrl-C.
    if (is_working_ && source_.request_stop()) continue;
    (void)!write(STDERR_FILENO, "\n", 1);
    _exit(exit_interrupted);
  }
}

}  // namespace gsa::apps
