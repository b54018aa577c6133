#include "eval/runner.h"

#include <ATen/Parallel.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <algorithm>
#include <atomic>
#include <exception>
#include <fstream>
#include <iterator>
#include <map>
#include <mutex>
#include <nlohmann/json.hpp>
#include <thread>
#include <tuple>
#include <utility>

#include "core/error.h"
#include "core/file.h"
#include "core/text_file.h"

namespace gsa::eval {
namespace {

using nlohmann::ordered_json;

/// Task, item, policy.
using Key = std::tuple<std::string, std::string, std::string>;

std::string first_line(std::string_view text) {
  text = core::trimmed(text);
  return std::string(core::trimmed(text.substr(0, text.find('\n'))));
}

Record make_record(const Task& task, const TaskItem& item, engine::ResultRow row) {
  Record record{task.name, item.id, std::move(row), {}, {}};
  record.prediction = first_line(record.row.answer);
  record.scores = score_qa(record.prediction, item.answers);
  return record;
}

std::string to_text(const ordered_json& object) {
  return object.dump(-1, ' ', false, ordered_json::error_handler_t::replace);
}

std::string to_line(const Record& record) {
  ordered_json line = {{"task", record.task},
                       {"id", record.item_id},
                       {"prediction", record.prediction},
                       {"f1", record.scores.f1},
                       {"exact_match", record.scores.exact_match},
                       {"contains", record.scores.contains}};
  line.update(ordered_json::parse(engine::to_json(record.row)));
  return to_text(line);
}

Record from_line(const nlohmann::json& line) {
  Record record;
  record.task = line.at("task");
  record.item_id = line.at("id");
  record.prediction = line.at("prediction");
  record.scores = {line.at("exact_match"), line.at("f1"), line.at("contains")};
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

/// The file of finished records: a first line that names the run, then a record per line.
class RecordsFile {
 public:
  RecordsFile(const std::filesystem::path& path, const std::string& run_name) : path_(path) {
    if (path.empty()) return;
    const std::string header = to_text({{"run", run_name}}) + "\n";
    std::string kept = header;
    if (std::filesystem::exists(path)) kept = read(core::read_file(path), header);
    core::write_file_atomic(path, kept);  // without a line that was cut off
    stream_.open(path, std::ios::app | std::ios::binary);
  }

  /// nullptr if the item is still to be done.
  const Record* find(const Task& task, const TaskItem& item, const std::string& policy) const {
    const auto found = finished_.find({task.name, item.id, policy});
    const bool is_done = found != finished_.end() && found->second.row.question == item.question;
    return is_done ? &found->second : nullptr;
  }

  void add(const Record& record) {
    if (path_.empty()) return;
    stream_ << to_line(record) << '\n' << std::flush;
    if (!stream_) core::resource_error("eval: {}: cannot be written", path_.string());
  }

 private:
  std::string read(const std::string& text, const std::string& header) {
    if (!text.starts_with(header)) {
      core::input_error(
          "eval: {}: holds records of another run (model, adapter, prompt, length or sampling); "
          "give "
          "another file or remove it",
          path_.string());
    }
    std::string kept = header;
    for (std::size_t begin = header.size(); begin < text.size();) {
      const std::size_t end = text.find('\n', begin);
      if (end == std::string::npos) break;
      const std::string line = text.substr(begin, end - begin);
      begin = end + 1;
      try {
        const Record record = from_line(nlohmann::json::parse(line));
        finished_[{record.task, record.item_id, record.row.policy}] = record;
        kept += line + "\n";
      } catch (const nlohmann::json::exception&) {
        continue;  // not whole: the item is done again
      }
    }
    return kept;
  }

  std::filesystem::path path_;
  std::ofstream stream_;
  std::map<Key, Record> finished_;
};

/// Gives the calling thread a stream of its own on a GPU.
void use_own_stream(at::Device device) {
  if (!device.is_cuda()) return;
  const c10::impl::VirtualGuardImpl guard(device.type());
  guard.exchangeStream(guard.getStreamFromGlobalPool(device));
}

class Run {
 public:
  Run(std::span<const Task> tasks, std::span<const engine::PolicyRun> policies,
      const RunOptions& options)
      : policies_(policies), options_(options), file_(options.records_file, options.run_name) {
    for (const Task& task : tasks)
      for (const TaskItem& item : task.items) items_.push_back({&task, &item});
    records_.resize(items_.size());
  }

  std::vector<Record> run() {
    {
      std::vector<std::jthread> workers;
      for (int i = 0; i < options_.num_workers; ++i) workers.emplace_back([this] { work(); });
    }
    if (failure_) std::rethrow_exception(failure_);
    std::vector<Record> all;
    for (auto& some : records_) std::move(some.begin(), some.end(), std::back_inserter(all));
    return all;
  }

 private:
  struct Item {
    const Task* task;
    const TaskItem* item;
  };

  bool must_end() const { return has_failed_ || options_.generate.cancel.stop_requested(); }

  void work() {
    try {
      at::init_num_threads();  // as many threads of LibTorch's as the caller's
      use_own_stream(policies_.front().model->device());
      for (std::size_t i = next_++; i < items_.size() && !must_end(); i = next_++) answer(i);
    } catch (const Ended&) {
      return;
    } catch (...) {
      const std::lock_guard lock(mutex_);
      if (!failure_) failure_ = std::current_exception();
      has_failed_ = true;
    }
  }

  void answer(std::size_t idx) {
    const auto [task, item] = items_[idx];
    std::vector<Record> records(policies_.size());
    std::vector<std::size_t> missing;
    std::vector<engine::PolicyRun> runs;
    for (std::size_t i = 0; i < policies_.size(); ++i) {
      if (const Record* found = file_.find(*task, *item, policies_[i].spec.to_string())) {
        records[i] = *found;
      } else {
        missing.push_back(i);
        runs.push_back(policies_[i]);
      }
    }
    auto rows = compare(runs, *item);
    if (must_end()) return;
    for (std::size_t i = 0; i < rows.size(); ++i)
      records[missing[i]] = make_record(*task, *item, std::move(rows[i]));

    const std::lock_guard lock(mutex_);
    for (const std::size_t i : missing) file_.add(records[i]);
    records_[idx] = std::move(records);
    if (options_.on_item) options_.on_item(++num_done_, std::ssize(items_));
  }

  /// Thrown to leave an item that is being read.
  struct Ended {};

  std::vector<engine::ResultRow> compare(std::span<const engine::PolicyRun> runs,
                                         const TaskItem& item) const {
    engine::CompareOptions compare;
    compare.session = options_.session;
    compare.generate = options_.generate;
    compare.on_read = [this](std::int64_t, std::int64_t) {
      if (must_end()) throw Ended();
    };
    const std::vector<std::string> questions = {item.question};
    return engine::compare(runs, item.documents, questions, compare);
  }

  std::span<const engine::PolicyRun> policies_;
  const RunOptions& options_;
  std::vector<Item> items_;
  std::atomic<std::size_t> next_ = 0;
  std::atomic<bool> has_failed_ = false;

  std::mutex mutex_;  // guards what follows
  RecordsFile file_;  // what it held at first does not change: `find` needs no lock
  std::vector<std::vector<Record>> records_;  // per item
  std::int64_t num_done_ = 0;
  std::exception_ptr failure_;
};

}  // namespace

std::vector<Record> run_tasks(std::span<const Task> tasks,
                              std::span<const engine::PolicyRun> policies,
                              const RunOptions& options) {
  if (tasks.empty() || policies.empty()) return {};
  return Run(tasks, policies, options).run();
}

}  // namespace gsa::eval
