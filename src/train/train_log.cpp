#include "train/train_log.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <sstream>

#include "core/file.h"
#include "core/log.h"

namespace gsa::train {
namespace {

using nlohmann::ordered_json;

/// The whole lines of a log that belong to steps up to `step`.
std::string lines_up_to(const std::filesystem::path& path, std::int64_t step) {
  std::istringstream stream(core::read_file(path));
  std::string kept;
  for (std::string line; std::getline(stream, line);) {
    const auto record = ordered_json::parse(line, nullptr, /*allow_exceptions=*/false);
    if (!record.is_object()) continue;  // cut off in the middle
    const auto found = record.find("step");
    if (found == record.end() || !found->is_number_integer()) continue;
    if (found->get<std::int64_t>() <= step) kept += line + "\n";
  }
  return kept;
}

}  // namespace

std::string scores_json(const Scores& scores) {
  ordered_json object = ordered_json::object();
  for (const auto& [name, loss] : scores) object[name] = loss;
  return object.dump();
}

TrainLog::TrainLog(std::filesystem::path path, std::int64_t step) : path_(std::move(path)) {
  const bool goes_on = step > 0 && std::filesystem::exists(path_);
  core::write_file_atomic(path_, goes_on ? lines_up_to(path_, step) : std::string());
  stream_.open(path_, std::ios::app | std::ios::binary);
}

void TrainLog::add(const StepRecord& record) {
  ordered_json line{{"step", record.step},
                    {"loss", record.loss},
                    {"lr", record.lr},
                    {"grad_norm", record.grad_norm},
                    {"tokens_per_second", record.tokens_per_second},
                    {"tokens", record.num_tokens},
                    {"raw_tokens", record.num_raw},
                    {"seconds", record.seconds}};
  if (record.routing) line["routing"] = *record.routing;
  write(line.dump());
}

void TrainLog::add(std::int64_t step, const Scores& scores) {
  write(ordered_json{{"step", step}, {"eval", ordered_json::parse(scores_json(scores))}}.dump());
}

void TrainLog::write(const std::string& line) {
  stream_ << line << '\n' << std::flush;
  if (stream_.good() || has_warned_) return;
  has_warned_ = true;
  core::log_warning(
      fmt::format("{}: cannot be written; the run goes on without it", path_.string()));
}

}  // namespace gsa::train
