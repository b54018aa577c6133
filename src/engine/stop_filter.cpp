#include "engine/stop_filter.h"

#include <algorithm>
#include <utility>

#include "core/error.h"

namespace gsa::engine {
namespace {

/// Length of the longest end of `text` that begins `stop` without completing it.
std::size_t begun_len(std::string_view text, std::string_view stop) {
  for (std::size_t len = std::min(text.size(), stop.size() - 1); len > 0; --len) {
    if (text.ends_with(stop.substr(0, len))) return len;
  }
  return 0;
}

}  // namespace

StopFilter::StopFilter(std::vector<std::string> stops) : stops_(std::move(stops)) {
  for (const std::string& stop : stops_) {
    if (stop.empty()) core::input_error("stop strings: one is empty: leave it out");
  }
}

std::string StopFilter::push(std::string_view text) {
  if (has_stopped_) return {};
  held_ += text;
  std::size_t stop_begin = held_.size(), stop_end = std::string::npos, held_len = 0;
  for (const std::string& stop : stops_) {
    held_len = std::max(held_len, begun_len(held_, stop));
    const std::size_t begin = held_.find(stop);
    if (begin == std::string::npos) continue;
    const std::size_t end = begin + stop.size();
    if (end < stop_end || (end == stop_end && begin < stop_begin)) {
      stop_begin = begin;
      stop_end = end;
    }
  }
  has_stopped_ = stop_end != std::string::npos;
  std::string certain = held_.substr(0, has_stopped_ ? stop_begin : held_.size() - held_len);
  held_ = has_stopped_ ? std::string() : held_.substr(certain.size());
  return certain;
}

std::string StopFilter::finish() { return std::exchange(held_, {}); }

}  // namespace gsa::engine
