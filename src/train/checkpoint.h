#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace gsa::train {

/// Where a run stands.
struct RunState {
  std::int64_t step = 0;        ///< steps done
  std::int64_t next_row = 0;    ///< rows drawn from the data
  std::int64_t num_tokens = 0;  ///< seen, gists included
  std::int64_t num_raw = 0;     ///< raw tokens seen
  double seconds = 0;           ///< spent training
  double mean_loss = 0;         ///< running mean, for the detection of spikes

  bool operator==(const RunState&) const = default;
};

using NamedTensors = std::vector<std::pair<std::string, at::Tensor>>;

/// The checkpoints of one run: a folder of safetensors files named by their step. A file is there
/// completely or not at all, and the newest two are kept.
class Checkpoints {
 public:
  /// `recipe` says what makes the run: a checkpoint of another recipe is not resumed.
  Checkpoints(std::filesystem::path folder, std::string recipe)
      : folder_(std::move(folder)), recipe_(std::move(recipe)) {}

  /// Resource error if the file cannot be written; the older ones stay. One process at a time may
  /// save: what another left half written is removed.
  void save(const RunState& state, const NamedTensors& tensors) const;

  /// Fills the tensors from the newest checkpoint that is whole; warns about one that is not and
  /// goes on to the one before. Nothing if there is no checkpoint; input error if all are damaged,
  /// or the newest whole one is of another recipe or other shapes.
  std::optional<RunState> restore(const NamedTensors& tensors) const;

  /// Whether there is one, whole or not.
  bool any() const;

 private:
  /// Those of steps with this ending, newest first.
  std::vector<std::filesystem::path> files(std::string_view ending) const;

  std::filesystem::path folder_;
  std::string recipe_;
};

}  // namespace gsa::train
