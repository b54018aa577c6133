#include "eval/runner.h"

#include <ATen/Parallel.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <exception>
#include <iterator>
#include <mutex>
#include <thread>
#include <utility>

#include "core/error.h"

namespace gsa::eval {
namespace {

/// An item of a run and its place in the results.
struct Place {
  const Task* task;
  const TaskItem* item;
  std::size_t idx;
};

std::vector<Place> all_places(std::span<const Task> tasks) {
  std::vector<Place> places;
  for (const Task& task : tasks)
    for (const TaskItem& item : task.items) places.push_back({&task, &item, places.size()});
  return places;
}

/// Items of one task that are answered together.
using Block = std::vector<Place>;

std::int64_t context_bytes(const TaskItem& item) {
  std::int64_t count = 0;
  for (const std::string& document : item.documents) count += std::ssize(document);
  return count;
}

/// This process's share of the items in blocks. Those of a block are of similar length, as a batch
/// takes as long as its longest; the longest ones come first, so that what does not fit shows at
/// once.
std::vector<Block> make_blocks(std::span<const Task> tasks, const RunOptions& options) {
  auto places = all_places(tasks);
  const auto is_of_another = [&](const Place& place) {
    return place.idx % static_cast<std::size_t>(options.share.size) !=
           static_cast<std::size_t>(options.share.rank);
  };
  std::erase_if(places, is_of_another);
  if (options.batch_size > 1) {
    std::ranges::stable_sort(places, {}, [](const Place& place) {
      return std::pair(place.task, -context_bytes(*place.item));
    });
  }
  std::vector<Block> blocks;
  for (const Place& place : places) {
    const bool begins_block = blocks.empty() || blocks.back().front().task != place.task ||
                              std::ssize(blocks.back()) == options.batch_size;
    if (begins_block) blocks.emplace_back();
    blocks.back().push_back(place);
  }
  return blocks;
}

/// Gives the calling thread a stream of its own on a GPU.
void use_own_stream(at::Device device) {
  if (!device.is_cuda()) return;
  const c10::impl::VirtualGuardImpl guard(device.type());
  guard.exchangeStream(guard.getStreamFromGlobalPool(device));
}

std::string name_of(const Place& place) {
  return fmt::format("task {}, item '{}'", place.task->name, place.item->id);
}

/// The error of an item with the item's name in front.
[[noreturn]] void rethrow_named(const Place& place) {
  try {
    throw;
  } catch (const Error& error) {
    throw Error(error.kind(), fmt::format("eval: {}: {}", name_of(place), error.what()));
  }
}

class Run {
 public:
  Run(std::span<const Task> tasks, std::span<const Entrant> entrants, const RunOptions& options)
      : entrants_(entrants),
        options_(options),
        blocks_(make_blocks(tasks, options)),
        file_(options.records_file, options.run_name, options.share.rank, options.share.size),
        records_(all_places(tasks).size()) {
    for (const Block& block : blocks_) num_items_ += std::ssize(block);
  }

  RunResult run() {
    {
      std::vector<std::jthread> workers;
      for (int i = 0; i < options_.num_workers; ++i) workers.emplace_back([this] { work(); });
    }
    if (error_) std::rethrow_exception(error_);
    RunResult result;
    for (auto& some : records_)
      std::move(some.begin(), some.end(), std::back_inserter(result.records));
    result.failures = std::move(failures_);
    const bool is_whole_run = options_.share.size == 1 && num_done_ == num_items_;
    if (is_whole_run && file_.is_left_by_others()) file_.merge(result.failures);
    return result;
  }

 private:
  /// Thrown to leave an item that is being read.
  struct Ended {};

  bool must_end() const { return has_failed_ || options_.answer.generate.cancel.stop_requested(); }

  void work() {
    try {
      at::init_num_threads();  // as many threads of LibTorch's as the caller's
      use_own_stream(entrants_.front().run.model->device());
      for (std::size_t i = next_++; i < blocks_.size() && !must_end(); i = next_++)
        try_block(blocks_[i]);
    } catch (const Ended&) {
      return;
    } catch (...) {
      const std::lock_guard lock(mutex_);
      if (!error_) error_ = std::current_exception();
      has_failed_ = true;
    }
  }

  /// Answers a block; if that fails, item by item, so that one cannot take others with it.
  void try_block(const Block& block) {
    try {
      return answer(block);
    } catch (const std::exception& error) {
      if (block.size() == 1) return fail(block.front(), error);
    }
    for (const Place& place : block) {
      if (must_end()) return;
      try_block({place});
    }
  }

  void fail(const Place& place, const std::exception& error) {
    if (options_.on_failure == OnFailure::stop) rethrow_named(place);
    const std::string text = error.what();
    const Failure failure{place.task->name, place.item->id, text.substr(0, text.find('\n'))};
    const std::lock_guard lock(mutex_);
    file_.add(failure);
    failures_.push_back(failure);
    count_done();
  }

  void answer(const Block& block) {
    std::vector<std::vector<Record>> found(block.size());
    std::vector<PreparedItem> prepared;
    std::vector<std::vector<bool>> wanted;
    std::vector<std::size_t> prepared_idx;
    AnswerOptions answer = options_.answer;
    answer.on_read = [this](std::int64_t, std::int64_t) {
      if (must_end()) throw Ended();
    };
    for (std::size_t i = 0; i < block.size(); ++i) {
      std::vector<bool> missing = find_missing(block[i], found[i]);
      if (std::ranges::find(missing, true) == missing.end()) continue;
      prepared.push_back(
          prepare_item(*block[i].task, *block[i].item, entrants_.front().run.model, answer));
      wanted.push_back(std::move(missing));
      prepared_idx.push_back(i);
    }
    auto made = answer_items(prepared, entrants_, wanted, answer);
    if (must_end() && !prepared.empty()) return;
    const std::lock_guard lock(mutex_);
    for (std::size_t i = 0; i < made.size(); ++i) {
      for (const Record& record : made[i]) file_.add(record);
      std::ranges::move(made[i], std::back_inserter(found[prepared_idx[i]]));
    }
    for (std::size_t i = 0; i < block.size(); ++i) {
      records_[block[i].idx] = in_order(std::move(found[i]));
      count_done();
    }
  }

  /// Collects the records of an item that are on disk; who is still to answer it.
  std::vector<bool> find_missing(const Place& place, std::vector<Record>& found) const {
    std::vector<bool> missing;
    for (const Entrant& entrant : entrants_) {
      const Record* record = file_.find(place.task->name, *place.item, entrant);
      if (record != nullptr) found.push_back(*record);
      missing.push_back(record == nullptr && entrant.plays(place.task->name));
    }
    return missing;
  }

  std::vector<Record> in_order(std::vector<Record> records) const {
    const auto place_of = [&](const Record& record) {
      return std::ranges::find(entrants_, record.row.policy, &Entrant::name) - entrants_.begin();
    };
    std::ranges::stable_sort(records, {}, place_of);
    return records;
  }

  void count_done() {
    ++num_done_;
    if (options_.on_item) options_.on_item(num_done_, num_items_);
  }

  std::span<const Entrant> entrants_;
  const RunOptions& options_;
  std::vector<Block> blocks_;
  std::int64_t num_items_ = 0;
  std::atomic<std::size_t> next_ = 0;
  std::atomic<bool> has_failed_ = false;

  std::mutex mutex_;  // guards what follows
  RecordsFile file_;  // what it held at first does not change: `find` needs no lock
  std::vector<std::vector<Record>> records_;  // per item
  std::vector<Failure> failures_;
  std::int64_t num_done_ = 0;
  std::exception_ptr error_;
};

/// Looks at the items of the greatest length that a task states, which are equal but for a few
/// tokens.
void check_longest(const Task& task, const Entrant& entrant, const AnswerOptions& options) {
  if (task.items.empty()) return;
  const std::int64_t longest = std::ranges::max_element(task.items, {}, &TaskItem::length)->length;
  for (const TaskItem& item : task.items) {
    if (item.length < longest || !is_uncut(task, item)) continue;
    try {
      prepare_item(task, item, entrant.run.model, options);
    } catch (const Error&) {
      rethrow_named({&task, &item, 0});
    }
  }
}

/// The items that the records file holds whole, and failures.
RunResult gather(std::span<const Task> tasks, std::span<const Entrant> entrants,
                 const RecordsFile& file) {
  RunResult result;
  for (const Task& task : tasks) result.finished.push_back({task.name, 0, std::ssize(task.items)});
  for (const Place& place : all_places(tasks)) {
    const std::string& task = place.task->name;
    const std::size_t num_before = result.records.size();
    bool is_whole = true;
    for (const Entrant& entrant : entrants) {
      if (!entrant.plays(task)) continue;
      const Record* record = file.find(task, *place.item, entrant);
      if (record != nullptr) result.records.push_back(*record);
      is_whole &= record != nullptr;
    }
    if (!is_whole) result.records.resize(num_before);
    const Failure* failure = is_whole ? nullptr : file.find_failure(task, place.item->id);
    if (failure != nullptr) result.failures.push_back(*failure);
    const auto count = std::ranges::find(result.finished, task, &Finished::task);
    count->num_items += is_whole || failure != nullptr;
  }
  return result;
}

std::int64_t count_finished(const RunResult& result) {
  std::int64_t count = 0;
  for (const Finished& task : result.finished) count += task.num_items;
  return count;
}

}  // namespace

void check_lengths(std::span<const Task> tasks, std::span<const Entrant> entrants,
                   const AnswerOptions& options) {
  for (const Task& task : tasks) check_longest(task, entrants.front(), options);
}

RunResult run_tasks(std::span<const Task> tasks, std::span<const Entrant> entrants,
                    const RunOptions& options) {
  if (tasks.empty() || entrants.empty()) return {};
  if (options.on_failure == OnFailure::stop) check_lengths(tasks, entrants, options.answer);
  return Run(tasks, entrants, options).run();
}

RunResult finished_items(std::span<const Task> tasks, std::span<const Entrant> entrants,
                         const RunOptions& options) {
  const RecordsFile file(options.records_file, options.run_name, options.share.rank,
                         options.share.size, RecordsFile::Purpose::collect);
  RunResult result = gather(tasks, entrants, file);
  if (options.on_item) options.on_item(count_finished(result), std::ssize(all_places(tasks)));
  return result;
}

RunResult collect(std::span<const Task> tasks, std::span<const Entrant> entrants,
                  const RunOptions& options) {
  using Clock = std::chrono::steady_clock;
  constexpr std::chrono::minutes patience{30};
  constexpr std::chrono::milliseconds poll_interval{500};
  RecordsFile file(options.records_file, options.run_name, options.share.rank, options.share.size,
                   RecordsFile::Purpose::collect);
  const auto total = std::ssize(all_places(tasks));
  std::int64_t last_done = -1;
  bool has_told = false;
  auto last_change = Clock::now();
  while (true) {
    file.reload();
    RunResult result = gather(tasks, entrants, file);
    const std::int64_t num_done = count_finished(result);
    if (options.on_item) options.on_item(num_done, total);
    if (num_done == total) {
      file.merge(result.failures);
      return result;
    }
    if (options.answer.generate.cancel.stop_requested()) return result;
    if (num_done != last_done) last_change = Clock::now();
    last_done = num_done;
    if (!has_told && options.on_wait && Clock::now() - last_change >= options.wait_until_told) {
      options.on_wait(total - num_done, total);
      has_told = true;
    }
    if (Clock::now() - last_change > patience) {
      core::resource_error(
          "eval: {} of {} items are missing in {}.rank* and no process writes any more: start "
          "again "
          "without the launcher, which does the rest",
          total - num_done, total, options.records_file.string());
    }
    std::this_thread::sleep_for(poll_interval);
  }
}

}  // namespace gsa::eval
