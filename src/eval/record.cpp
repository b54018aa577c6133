#include "eval/record.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <utility>

#include "core/error.h"
#include "core/utf8.h"

namespace gsa::eval {
namespace {

using nlohmann::ordered_json;

std::string to_text(const ordered_json& object) {
  return object.dump(-1, ' ', false, ordered_json::error_handler_t::replace);
}

std::string to_line(const Record& record) {
  ordered_json line = {{"task", record.task},
                       {"id", record.item_id},
                       {"prediction", record.prediction},
                       {"metric", record.metric},
                       {"score", record.score},
                       {"f1", record.secondary.f1},
                       {"exact_match", record.secondary.exact_match},
                       {"contains", record.secondary.contains},
                       {"length", record.length},
                       {"truncated", record.is_truncated}};
  if (record.depth) line["depth"] = *record.depth;
  if (!record.item_digest.empty()) line["item"] = record.item_digest;
  line["setting"] = record.setting;
  line.update(ordered_json::parse(engine::to_json(record.row)));
  return to_text(line);
}

Record from_line(const nlohmann::json& line) {
  Record record;
  record.task = line.at("task");
  record.item_id = line.at("id");
  record.prediction = line.at("prediction");
  record.metric = line.at("metric");
  record.score = line.at("score");
  record.secondary = {line.at("exact_match"), line.at("f1"), line.at("contains")};
  record.length = line.at("length");
  record.is_truncated = line.at("truncated");
  if (const auto depth = line.find("depth"); depth != line.end()) record.depth = *depth;
  record.item_digest = line.value("item", "");
  record.setting = line.at("setting");
  engine::ResultRow& row = record.row;
  row.policy = line.at("policy");
  row.question = line.at("question");
  row.answer = line.at("answer");
  row.context_tokens = line.at("context_tokens");
  row.answer_tokens = line.at("answer_tokens");
  row.nominal_ratio = line.at("nominal_ratio");
  row.fraction_read = line.at("fraction_read");
  row.prefill_fraction = line.at("prefill_fraction");
  row.prefill_seconds = line.at("prefill_seconds");
  row.decode_ms_per_token = line.at("decode_ms_per_token");
  row.kv_bytes_per_token = line.at("kv_bytes_per_token");
  row.peak_memory_bytes = line.at("peak_memory_bytes");
  return record;
}

/// The first part, up to a comma, in which the first line of a file differs from this run's; empty
/// if the file is none of records.
std::string difference(std::string_view theirs, std::string_view ours) {
  try {
    const std::string names[] = {nlohmann::json::parse(theirs).at("run").get<std::string>(),
                                 nlohmann::json::parse(ours).at("run").get<std::string>()};
    const auto differing = std::ranges::mismatch(names[0], names[1]);
    const auto at = static_cast<std::size_t>(differing.in1 - names[0].begin());
    const auto part = [&](const std::string& name) {
      const std::size_t comma = at == 0 ? std::string::npos : name.rfind(", ", at - 1);
      const std::size_t begin = comma == std::string::npos ? 0 : comma + 2;
      return core::printable(name.substr(begin, name.find(", ", at) - begin));
    };
    return fmt::format(": {} there, {} here", part(names[0]), part(names[1]));
  } catch (const nlohmann::json::exception&) {
    return "";
  }
}

core::FileLock lock(const std::filesystem::path& path) {
  auto taken = core::FileLock::take(path);
  if (!taken) {
    core::input_error("eval: {}: another run writes it; wait for that or give another --records",
                      path.string());
  }
  return *std::move(taken);
}

std::string to_line(const Failure& failure) {
  return to_text({{"task", failure.task}, {"id", failure.item_id}, {"error", failure.error}});
}

}  // namespace

RecordsFile::RecordsFile(std::filesystem::path path, const std::string& run_name, int rank,
                         int num_processes, Purpose purpose)
    : path_(std::move(path)), header_(to_text({{"run", run_name}}) + "\n") {
  if (path_.empty()) return;
  own_path_ = path_;
  if (num_processes > 1) own_path_ += fmt::format(".rank{}", rank);
  if (purpose == Purpose::write) {  // before they are read
    if (num_processes > 1 && rank == 0) merge_lock_ = lock(path_);
    lock_ = lock(own_path_);
  }
  std::string kept;
  for (const auto& file : all_files()) {
    std::string lines = read(file);
    if (file == own_path_) kept = std::move(lines);
  }
  others_len_ = count_others();
  if (purpose == Purpose::collect) return;
  failures_.clear();
  core::write_file_atomic(own_path_, header_ + kept);
  lock_ = lock(own_path_);  // it is a new file
  stream_.open(own_path_, std::ios::app | std::ios::binary);
}

std::vector<std::filesystem::path> RecordsFile::all_files() const {
  std::vector<std::filesystem::path> files;
  if (std::filesystem::is_regular_file(path_)) files.push_back(path_);  // else writing refuses it
  const std::string prefix = path_.filename().string() + ".rank";
  const auto folder = path_.has_parent_path() ? path_.parent_path() : std::filesystem::path(".");
  std::error_code no_folder;  // writing names it
  for (const auto& entry : std::filesystem::directory_iterator(folder, no_folder)) {
    const std::string name = entry.path().filename().string();
    const bool is_number = name.find_first_not_of("0123456789", prefix.size()) == std::string::npos;
    if (name.starts_with(prefix) && name.size() > prefix.size() && is_number)
      files.push_back(path_.parent_path() / name);
  }
  std::sort(files.begin(), files.end());
  return files;
}

std::uintmax_t RecordsFile::count_others() const {
  std::uintmax_t count = 0;
  for (const auto& file : all_files())
    if (file != own_path_) count += std::filesystem::file_size(file);
  return count;
}

std::string RecordsFile::read(const std::filesystem::path& file) {
  const std::string text = core::read_file(file);
  if (text.empty()) return "";  // of a run that ended before it wrote
  if (!text.starts_with(header_)) {
    core::input_error(
        "eval: {}: holds records of another run (model, adapter, tasks, prompt, --match, "
        "--calibration-items, length or sampling){}; give another file or remove it",
        file.string(), difference(text.substr(0, text.find('\n')), header_));
  }
  std::string kept;
  for (std::size_t begin = header_.size(); begin < text.size();) {
    const std::size_t end = text.find('\n', begin);
    if (end == std::string::npos) break;
    const std::string line = text.substr(begin, end - begin);
    begin = end + 1;
    try {
      const auto object = nlohmann::json::parse(line);
      if (object.contains("error")) {
        const Failure failure{object.at("task"), object.at("id"), object.at("error")};
        failures_[{failure.task, failure.item_id}] = failure;
        continue;
      }
      const Record record = from_line(object);
      finished_[{record.task, record.item_id, record.row.policy}].push_back(record);
      kept += line + "\n";
    } catch (const nlohmann::json::exception&) {
      continue;  // not whole: the item is done again
    }
  }
  return kept;
}

const Record* RecordsFile::find(const std::string& task, const TaskItem& item,
                                const Entrant& entrant) const {
  const auto found = finished_.find({task, item.id, entrant.name});
  if (found == finished_.end() || !entrant.plays(task)) return nullptr;
  const auto fits = [&](const Record& record) {
    return record.row.question == item.question &&
           (record.item_digest.empty() || record.item_digest == item.digest) &&
           record.setting == entrant.spec_for(task, record.row.context_tokens).to_string();
  };
  const auto record = std::ranges::find_if(found->second, fits);
  return record == found->second.end() ? nullptr : &*record;
}

const Failure* RecordsFile::find_failure(const std::string& task,
                                         const std::string& item_id) const {
  const auto found = failures_.find({task, item_id});
  return found == failures_.end() ? nullptr : &found->second;
}

void RecordsFile::add(const Record& record) { add_line(to_line(record)); }
void RecordsFile::add(const Failure& failure) { add_line(to_line(failure)); }

void RecordsFile::add_line(const std::string& line) {
  if (path_.empty()) return;
  stream_ << line << '\n' << std::flush;
  if (!stream_) core::resource_error("eval: {}: cannot be written", own_path_.string());
}

void RecordsFile::reload() {
  if (path_.empty()) return;
  finished_.clear();
  for (const auto& file : all_files()) read(file);
}

void RecordsFile::merge(const std::vector<Failure>& failures) {
  if (path_.empty()) return;
  if (own_path_ != path_ && !merge_lock_) merge_lock_ = lock(path_);
  const auto files = all_files();
  std::string text = header_;
  for (const auto& file : files) text += read(file);
  for (const Failure& failure : failures) text += to_line(failure) + "\n";
  core::write_file_atomic(path_, text);
  stream_.close();
  for (const auto& file : files)
    if (file != path_) std::filesystem::remove(file);
}

}  // namespace gsa::eval
