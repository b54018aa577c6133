#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

namespace gsa::train {

/// Points of a curve: step and loss in nats, by rising step.
using Curve = std::vector<std::pair<std::int64_t, double>>;

/// The losses of one run.
struct RunCurves {
  std::string name;
  Curve training;
  std::vector<std::pair<std::string, Curve>> evaluations;  ///< by chunk sizes ("full", "8", "4-4")
};

/// Reads the log of a run (see `TrainLog`); of several lines for a step, the last counts. Input
/// error if the file is missing or tells no loss.
RunCurves read_curves(const std::filesystem::path& log, std::string name);

/// A picture of the runs as a self-contained SVG document: per run its training loss, thin as it
/// was and smoothed above that, and a line with points per evaluation. Values that are not finite
/// are left out.
std::string plot_svg(const std::vector<RunCurves>& runs);

}  // namespace gsa::train
