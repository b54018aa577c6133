#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace gsa::engine {

/// Cuts a stream of text before the stop string that is complete first (the longest if several are
/// complete at once). Text that may turn out to be the beginning of one is held back until that is
/// certain.
class StopFilter {
 public:
  /// Input error for an empty stop string.
  explicit StopFilter(std::vector<std::string> stops);

  /// Adds text and returns what is certain to be part of the answer. After a stop string was found
  /// nothing more is.
  std::string push(std::string_view text);

  /// What was held back: the stream ended without completing a stop string.
  std::string finish();

  bool has_stopped() const { return has_stopped_; }

 private:
  std::vector<std::string> stops_;
  std::string held_;
  bool has_stopped_ = false;
};

}  // namespace gsa::engine
