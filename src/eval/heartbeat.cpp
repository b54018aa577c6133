#include "eval/heartbeat.h"

#include <algorithm>
#include <string>
#include <system_error>
#include <utility>

#include "core/file.h"

namespace gsa::eval {

Heartbeat::Heartbeat(std::filesystem::path path, Clock::duration interval)
    : path_(std::move(path)), interval_(interval) {
  write();
}

Heartbeat::~Heartbeat() {
  std::error_code is_gone;
  if (!path_.empty()) std::filesystem::remove(path_, is_gone);
}

void Heartbeat::beat() {
  if (Clock::now() - last_ >= interval_) write();
}

void Heartbeat::write() {
  last_ = Clock::now();
  if (!path_.empty()) core::write_file_atomic(path_, "");
}

Watch::Watch(std::filesystem::path prefix, Heartbeat::Clock::duration patience)
    : prefix_(std::move(prefix)),
      patience_(patience),
      last_change_(newest_change()),
      last_sign_(Heartbeat::Clock::now()) {}

bool Watch::is_over() {
  const auto now = Heartbeat::Clock::now();
  const auto change = newest_change();
  if (change != last_change_) last_sign_ = now;
  last_change_ = change;
  return now - last_sign_ > patience_;
}

std::filesystem::file_time_type Watch::newest_change() const {
  auto newest = std::filesystem::file_time_type::min();
  const auto folder = prefix_.has_parent_path() ? prefix_.parent_path() : ".";
  std::error_code is_gone;  // while it is looked at
  for (const auto& entry : std::filesystem::directory_iterator(folder, is_gone)) {
    if (!entry.path().filename().string().starts_with(prefix_.filename().string())) continue;
    const auto time = std::filesystem::last_write_time(entry.path(), is_gone);
    if (!is_gone) newest = std::max(newest, time);
  }
  return newest;
}

}  // namespace gsa::eval
