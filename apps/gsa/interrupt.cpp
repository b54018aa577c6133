#include "interrupt.h"

#include <pthread.h>
#include <signal.h>
#include <unistd.h>

namespace gsa::apps {

Interrupt::Interrupt(std::initializer_list<int> signals) {
  sigemptyset(&signals_);
  for (const int signal : signals) sigaddset(&signals_, signal);
  pthread_sigmask(SIG_BLOCK, &signals_, nullptr);
  waiter_ = std::thread([this] { wait_for_signals(); });
}

Interrupt::~Interrupt() {
  {
    const std::lock_guard lock(mutex_);
    is_closing_ = true;
  }
  pthread_kill(waiter_.native_handle(), SIGINT);  // wakes it
  waiter_.join();
  pthread_sigmask(SIG_UNBLOCK, &signals_, nullptr);
}

int Interrupt::exit_code() {
  const std::lock_guard lock(mutex_);
  return 128 + last_signal_;
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
  while (true) {
    int signal = 0;
    if (sigwait(&signals_, &signal) != 0) continue;
    const std::lock_guard lock(mutex_);
    if (is_closing_) return;
    last_signal_ = signal;
    // request_stop is false if it was requested before: the second Ctrl-C ends the program at once.
    // SIGTERM does not: mpirun sends it several times.
    if (is_working_ && (source_.request_stop() || signal == SIGTERM)) continue;
    (void)!write(STDERR_FILENO, "\n", 1);
    _exit(128 + signal);
  }
}

}  // namespace gsa::apps
