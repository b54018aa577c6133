#include <algorithm>
#include <nlohmann/json.hpp>
#include <unordered_map>
#include <utility>

#include "core/error.h"
#include "text/sha256.h"
#include "train/permutation.h"
#include "train/prepare_parts.h"
#include "train/qa_record.h"
#include "train/text_source.h"

namespace gsa::train {
namespace {

using core::input_error;
using core::RecordReader;
using core::TextFile;

constexpr std::size_t kBatchRecords = 256;

/// Texts as tokens, one after the other on the disk.
class TextSpool {
 public:
  TextSpool(const std::filesystem::path& beside, TokenFormat format)
      : format_(std::move(format)), spool_(beside) {}

  void add(std::span<const std::int32_t> tokens) {
    spool_.append(format_.pack(tokens));
    lens_.push_back(static_cast<std::int32_t>(tokens.size()));
    num_tokens_ += std::ssize(tokens);
  }
  std::int64_t num_texts() const { return std::ssize(lens_); }
  std::int64_t num_tokens() const { return num_tokens_; }
  std::span<const std::byte> map() { return spool_.map(); }
  /// Appends where each text ends, counted from the last of `offsets`.
  void append_offsets(std::vector<std::int64_t>& offsets) const {
    for (const std::int32_t len : lens_) offsets.push_back(offsets.back() + len);
  }

 private:
  TokenFormat format_;
  Spool spool_;
  std::vector<std::int32_t> lens_;
  std::int64_t num_tokens_ = 0;
};

struct Text {
  std::string key;  // of equal texts
  std::vector<std::int32_t> tokens;
  Overlap overlap;
  bool is_in_evaluation = false;
};

/// A record on its way into the shard.
struct Item {
  QaRecord record;
  std::int64_t line = 0;  // of the file
  std::vector<std::int32_t> question = {}, answer = {};
  std::vector<Text> passages = {}, distractors = {};
  std::string_view dropped = {};  // why; empty: it is kept
};

std::span<const std::byte> bytes_of(const std::vector<std::int32_t>& values) {
  return std::as_bytes(std::span(values));
}
std::span<const std::byte> bytes_of(const std::vector<std::int64_t>& values) {
  return std::as_bytes(std::span(values));
}

class FtPreparation {
 public:
  FtPreparation(const FtPrepareOptions& options, const text::Tokenizer& tokenizer,
                const PrepareProgress& progress)
      : options_(options),
        tokenizer_(tokenizer),
        progress_(progress),
        evaluation_(options.exclude, tokenizer),
        format_(TokenFormat::for_vocabulary(tokenizer.vocab_size())),
        passages_(options.out, format_),
        questions_(options.out, format_),
        answers_(options.out, format_) {}

  PrepareReport run() {
    PrepareReport report;
    report.kind = DataKind::ft;
    for (const PrepareInput& input : options_.inputs) {
      take(input, mix(options_.seed, report.sources.size()));
      report.sources.push_back(std::move(source_));
    }
    report.num_evaluation_grams = evaluation_.num_grams();
    report.num_rows = questions_.num_texts();
    report.num_passages = passages_.num_texts();
    report.num_tokens = passages_.num_tokens() + questions_.num_tokens() + answers_.num_tokens();
    if (report.num_rows == 0) {
      std::string reasons;
      for (const SourceReport& source : report.sources)
        for (const auto& [reason, count] : source.dropped)
          reasons += fmt::format("{}{} {}", reasons.empty() ? "" : ", ", count, reason);
      input_error("data: {}: no question is left ({})", options_.out.string(),
                  reasons.empty() ? "the files have none" : reasons);
    }
    report.digest = write(report);
    return report;
  }

 private:
  void take(const PrepareInput& input, std::uint64_t seed) {
    const TextFile file = TextFile::open(input.path);
    if (!file.is_json_lines()) {
      input_error(
          "data: {}: questions come as JSON Lines (.jsonl): a record with question, answer "
          "and passages per line",
          input.path.string());
    }
    source_ = {};
    source_.name = input.path.filename().string();
    source_.sha256 = sha256_of(file);
    const std::vector<bool> taken =
        input.max_tokens > 0 ? choose(file, input.max_tokens, seed) : std::vector<bool>();
    for_each_item(file, [&](std::int64_t idx, Item& item) {
      ++source_.num_items;
      if (taken.empty() || taken[idx]) add(item);
    });
    if (source_.num_items == 0)
      input_error("data: {}: it has no records: give questions", input.path.string());
  }

  /// The records that a limit takes: in a shuffled order, until their tokens reach it.
  std::vector<bool> choose(const TextFile& file, std::int64_t max_tokens, std::uint64_t seed) {
    std::vector<std::int64_t> costs;
    for_each_item(file, [&](std::int64_t, const Item& item) {
      std::int64_t cost = 0;
      if (item.dropped.empty()) {
        cost = std::ssize(item.question) + std::ssize(item.answer);
        for (const Text& passage : item.passages) cost += std::ssize(passage.tokens);
        for (const Text& passage : item.distractors) cost += std::ssize(passage.tokens);
      }
      costs.push_back(cost);
    });
    std::vector<bool> taken(costs.size());
    const Permutation order(std::ssize(costs), seed);
    for (std::int64_t i = 0, sum = 0; i < std::ssize(costs); ++i) {
      sum += costs[order(i)];
      if (sum > max_tokens) break;
      taken[order(i)] = true;
    }
    return taken;
  }

  /// Calls `use` with every record, tokenised and judged, in order.
  template <typename Use>
  void for_each_item(const TextFile& file, Use use) {
    RecordReader reader(file);
    std::vector<Item> batch;
    std::int64_t idx = 0;
    nlohmann::json record;
    bool is_over = false;
    while (!is_over) {
      is_over = !reader.next(record);
      if (!is_over) batch.push_back({read_qa_record(record, reader.where()), reader.line_number()});
      if (!is_over && batch.size() < kBatchRecords) continue;
      for_each_in_threads(batch.size(), options_.num_threads,
                          [&](std::size_t i) { tokenize(batch[i]); });
      for (Item& item : batch) use(idx++, item);
      batch.clear();
      if (progress_) {
        progress_("reading " + source_.name, static_cast<std::int64_t>(reader.num_consumed()),
                  static_cast<std::int64_t>(file.num_bytes()));
      }
    }
  }

  void tokenize(Item& item) const {
    const QaRecord& record = item.record;
    item.dropped = [&]() -> std::string_view {
      if (record.question.empty()) return "without a question";
      if (record.answers.empty()) return "without an answer";
      if (record.passages.empty()) return "without a passage";
      item.question = tokenizer_.encode(record.question);
      if (std::ssize(item.question) > options_.max_question) return "with a long question";
      item.answer = tokenizer_.encode(record.best_answer());
      if (std::ssize(item.answer) > options_.max_answer) return "with a long answer";
      if (evaluation_.has_text(record.question)) return "in an evaluation set";
      for (const std::string& passage : record.passages)
        item.passages.push_back(make_text(passage));
      for (const Text& passage : item.passages)
        if (passage.is_in_evaluation) return "in an evaluation set";
      for (const Text& passage : item.passages)
        if (is_long(passage)) return "with a long passage";
      for (const std::string& passage : record.distractors) {
        Text text = make_text(passage);
        if (!text.is_in_evaluation && !is_long(text)) item.distractors.push_back(std::move(text));
      }
      return {};
    }();
    item.record = {};
  }

  bool is_long(const Text& text) const { return std::ssize(text.tokens) > options_.max_passage; }

  Text make_text(const std::string& passage) const {
    Text text;
    text::Sha256 digest;
    digest.update(passage);
    text.key = digest.finish();
    text.tokens = tokenizer_.encode(passage);
    if (evaluation_.empty()) return text;
    text.overlap = evaluation_.overlap(text.tokens);
    text.is_in_evaluation = evaluation_.has_text(passage) ||
                            evaluation_.has_text(passage.substr(passage.find('\n') + 1)) ||
                            text.overlap.share() > options_.max_overlap;
    return text;
  }

  void add(Item& item) {
    if (!item.dropped.empty()) {
      const std::string reason(item.dropped);
      ++source_.dropped[reason];
      source_.first_dropped_line.try_emplace(reason, item.line);
      return;
    }
    ++source_.num_kept;
    questions_.add(item.question);
    answers_.add(item.answer);
    source_.num_tokens += std::ssize(item.question) + std::ssize(item.answer);
    add_list(item.passages, passage_lists_);
    add_list(item.distractors, distractor_lists_);
  }

  struct Lists {
    std::vector<std::int32_t> values;
    std::vector<std::int64_t> offsets = {0};
  };

  void add_list(const std::vector<Text>& texts, Lists& lists) {
    for (const Text& text : texts) {
      const auto [place, is_new] =
          passage_ids_.try_emplace(text.key, static_cast<std::int32_t>(passages_.num_texts()));
      if (is_new) {
        passages_.add(text.tokens);
        source_.num_tokens += std::ssize(text.tokens);
        add_overlap(source_, text.overlap);
      }
      const auto row = std::span(lists.values).subspan(lists.offsets.back());
      if (std::ranges::find(row, place->second) == row.end()) lists.values.push_back(place->second);
    }
    lists.offsets.push_back(std::ssize(lists.values));
  }

  std::string write(const PrepareReport& report) {
    ShardInfo info;
    info.kind = DataKind::ft;
    info.tokenizer = tokenizer_.digest();
    info.seed = options_.seed;
    info.num_tokens = report.num_tokens;
    info.sources = sources_json(report.sources);
    std::vector<std::int64_t> offsets = {0};
    for (const TextSpool* texts : {&passages_, &questions_, &answers_})
      texts->append_offsets(offsets);
    const auto list = [](std::string name, const std::vector<std::int32_t>& values) {
      return core::SafeTensorParts{
          std::move(name), "I32", {std::ssize(values)}, {bytes_of(values)}};
    };
    const auto offset_list = [](std::string name, const std::vector<std::int64_t>& values) {
      return core::SafeTensorParts{
          std::move(name), "I64", {std::ssize(values)}, {bytes_of(values)}};
    };
    const std::vector<core::SafeTensorParts> tensors = {
        {"tokens",
         format_.dtype(),
         {report.num_tokens},
         {passages_.map(), questions_.map(), answers_.map()}},
        offset_list("offsets", offsets),
        list("passages", passage_lists_.values),
        offset_list("passage_offsets", passage_lists_.offsets),
        list("distractors", distractor_lists_.values),
        offset_list("distractor_offsets", distractor_lists_.offsets)};
    return write_shard(options_.out, std::move(info), tensors);
  }

  const FtPrepareOptions& options_;
  const text::Tokenizer& tokenizer_;
  const PrepareProgress& progress_;
  EvaluationSet evaluation_;
  TokenFormat format_;
  TextSpool passages_, questions_, answers_;
  std::unordered_map<std::string, std::int32_t> passage_ids_;  // by SHA-256 of the text
  Lists passage_lists_, distractor_lists_;                     // a row per question
  SourceReport source_;                                        // of the input that is read
};

}  // namespace

PrepareReport prepare_ft(const FtPrepareOptions& options, const text::Tokenizer& tokenizer,
                         const PrepareProgress& progress) {
  check_options(options);
  if (options.max_question < 1 || options.max_answer < 1 || options.max_passage < 1) {
    input_error(
        "data: the longest question, answer and passage have {}, {} and {} tokens: give 1 or "
        "more",
        options.max_question, options.max_answer, options.max_passage);
  }
  return FtPreparation(options, tokenizer, progress).run();
}

}  // namespace gsa::train
