#include <algorithm>
#include <limits>
#include <utility>

#include "core/error.h"
#include "train/permutation.h"
#include "train/prepare_parts.h"
#include "train/text_source.h"
#include "train/window_cutter.h"

namespace gsa::train {
namespace {

using core::input_error;
using core::TextFile;
using core::trimmed;

constexpr std::size_t kBatchBytes = std::size_t{4} << 20;  // of text that is tokenised at once
constexpr double kTokensPerChar = 0.25;                    // first guess of what a character gives

/// A document of an input, or the part of it that is taken.
struct Part {
  std::int64_t begin = 0;  // characters
  std::int64_t end = std::numeric_limits<std::int64_t>::max();
  bool is_taken = true;
};

/// Tokens of documents that will be taken in another order than they are read.
class DocumentStore {
 public:
  DocumentStore(const std::filesystem::path& beside, TokenFormat format)
      : format_(std::move(format)), spool_(beside) {}

  void add(std::int64_t document, std::span<const std::int32_t> tokens) {
    if (document >= std::ssize(ranges_)) ranges_.resize(document + 1);
    Range& range = ranges_[document];
    if (range.count == 0) range.begin = num_tokens_;
    range.count += std::ssize(tokens);
    num_tokens_ += std::ssize(tokens);
    spool_.append(format_.pack(tokens));
  }
  std::int64_t num_tokens() const { return num_tokens_; }

  /// Calls `use` with the tokens of a document, at most `max_tokens`, block by block.
  template <typename Use>
  std::int64_t read(std::int64_t document, std::int64_t max_tokens, Use use) {
    if (document >= std::ssize(ranges_)) return 0;
    const auto bytes = spool_.map();
    const Range& range = ranges_[document];
    const std::int64_t count = std::min(range.count, max_tokens);
    constexpr std::int64_t block = std::int64_t{1} << 20;
    const std::size_t element = format_.element_bytes();
    for (std::int64_t done = 0; done < count; done += block) {
      const std::int64_t len = std::min(block, count - done);
      use(format_.unpack(bytes.subspan((range.begin + done) * element, len * element)));
    }
    return count;
  }

 private:
  struct Range {
    std::int64_t begin = 0, count = 0;
  };

  TokenFormat format_;
  Spool spool_;
  std::vector<Range> ranges_;  // by document
  std::int64_t num_tokens_ = 0;
};

class CptPreparation {
 public:
  CptPreparation(const CptPrepareOptions& options, const text::Tokenizer& tokenizer,
                 const PrepareProgress& progress)
      : options_(options),
        tokenizer_(tokenizer),
        progress_(progress),
        evaluation_(options.exclude, tokenizer),
        rows_(options, options.out, tokenizer) {
    if (options.hold_out > 0) held_out_.emplace(options, options.hold_out_file, tokenizer);
  }

  PrepareReport run() {
    PrepareReport report;
    report.kind = DataKind::cpt;
    for (const PrepareInput& input : options_.inputs) {
      take(input, mix(options_.seed, report.sources.size()));
      report.sources.push_back(std::move(source_));
    }
    report.num_evaluation_grams = evaluation_.num_grams();
    report.num_rows = rows_.num_windows();
    report.num_tokens = rows_.num_windows() * options_.row_len;
    rows_.check();
    if (held_out_) {
      held_out_->check();
      report.num_held_out_rows = held_out_->num_windows();
      held_out_->write(report.sources);
    }
    report.digest = rows_.write(report.sources);
    return report;
  }

 private:
  struct Block {
    std::int64_t document = 0;
    std::string text;
    bool ends_document = true;
    std::vector<std::int32_t> tokens = {};
    Overlap overlap = {};
  };

  void take(const PrepareInput& input, std::uint64_t seed) {
    const TextFile file = TextFile::open(input.path);
    source_ = {};
    source_.name = input.path.filename().string();
    source_.sha256 = sha256_of(file);
    seed_ = seed;
    if (input.max_tokens > 0) {
      take_limited(file, input.max_tokens);
    } else {
      take_all(file);
    }
    if (source_.num_items == 0)
      input_error("data: {}: it has no documents: give a text", input.path.string());
  }

  void take_all(const TextFile& file) {
    std::vector<Part> parts;
    if (options_.document_chars > 0) parts = find_parts(measure(file));
    bool is_begun = false;
    read_blocks(file, parts, [&](const Block& block) {
      WindowCutter& cutter = cutter_of(block.document);
      cutter.add(block.tokens);
      source_.num_tokens += std::ssize(block.tokens);
      is_begun = is_begun || !block.tokens.empty();
      if (!block.ends_document) return;
      if (is_begun) count_document(block.document);
      if (is_begun) cutter.end_document();
      is_begun = false;
    });
  }

  /// Documents in a shuffled order until `max_tokens` are there. They are read in the file's order;
  /// how many are needed is guessed, and read on if the guess was low.
  void take_limited(const TextFile& file, std::int64_t max_tokens) {
    const std::vector<std::int64_t> chars = measure(file);
    std::vector<Part> parts = find_parts(chars);
    for (Part& part : parts) part.is_taken = false;
    const auto num_documents = std::ssize(parts);
    const Permutation order(num_documents, mix(seed_, 0));
    DocumentStore store(options_.out, TokenFormat::for_vocabulary(tokenizer_.vocab_size()));
    std::int64_t num_read = 0;
    double num_chars = 0, tokens_per_char = kTokensPerChar;
    while (num_read < num_documents && store.num_tokens() < max_tokens) {
      constexpr double margin = 1.02;
      const double needed = margin * static_cast<double>(max_tokens - store.num_tokens());
      std::vector<Part> some = parts;
      for (double guess = 0; num_read < num_documents && guess < needed; ++num_read) {
        Part& part = some[order(num_read)];
        part.is_taken = true;
        guess += tokens_per_char * static_cast<double>(part.end - part.begin);
        num_chars += static_cast<double>(part.end - part.begin);
      }
      read_blocks(file, some, [&](const Block& block) { store.add(block.document, block.tokens); });
      if (num_chars > 0 && store.num_tokens() > 0)
        tokens_per_char = static_cast<double>(store.num_tokens()) / num_chars;
    }
    for (std::int64_t i = 0; i < num_read && source_.num_tokens < max_tokens; ++i) {
      WindowCutter& cutter = cutter_of(order(i));
      const std::int64_t count =
          store.read(order(i), max_tokens - source_.num_tokens,
                     [&](const std::vector<std::int32_t>& tokens) { cutter.add(tokens); });
      source_.num_tokens += count;
      if (count == 0) continue;
      cutter.end_document();
      count_document(order(i));
    }
    source_.num_items = num_documents;
  }

  /// Characters of every document.
  std::vector<std::int64_t> measure(const TextFile& file) {
    std::vector<std::int64_t> chars;
    DocumentReader reader(file, options_.field);
    bool is_new = true;
    while (const auto block = reader.next()) {
      if (is_new) chars.push_back(0);
      chars.back() += count_chars(block->text);
      is_new = block->ends_document;
      tell("measuring", file, reader);
    }
    return chars;
  }

  std::vector<Part> find_parts(const std::vector<std::int64_t>& chars) const {
    std::vector<Part> parts;
    for (const std::int64_t len : chars) {
      Part part{0, len};
      const std::int64_t max_len = options_.document_chars;
      if (max_len > 0 && len > max_len) {
        part.begin = static_cast<std::int64_t>(seeded_below(
            mix(seed_, 1), parts.size(), static_cast<std::uint64_t>(len - max_len + 1)));
        part.end = part.begin + max_len;
      }
      parts.push_back(part);
    }
    return parts;
  }

  /// Calls `use` with the blocks of the parts that are taken (no parts: everything), tokenised, in
  /// order. What is in an evaluation set comes without tokens.
  template <typename Use>
  void read_blocks(const TextFile& file, const std::vector<Part>& parts, Use use) {
    DocumentReader reader(file, options_.field);
    std::vector<Block> batch;
    std::size_t batch_bytes = 0;
    std::int64_t document = 0, char_idx = 0;
    const auto flush = [&] {
      for_each_in_threads(batch.size(), options_.num_threads,
                          [&](std::size_t i) { tokenize(batch[i]); });
      for (Block& block : batch) {
        judge(block);
        use(block);
      }
      batch.clear();
      batch_bytes = 0;
      tell("reading", file, reader);
    };
    while (auto read = reader.next()) {
      Block block{document, std::move(read->text), read->ends_document};
      if (!parts.empty()) cut_to_part(parts[document], char_idx, block.text);
      if (block.ends_document) {
        ++document;
        char_idx = 0;
      }
      batch_bytes += block.text.size();
      if (parts.empty() || parts[block.document].is_taken) batch.push_back(std::move(block));
      if (batch_bytes >= kBatchBytes) flush();
    }
    flush();
    source_.num_items = document;
  }

  /// Leaves what of a block lies in the part; `char_idx` is where the block begins, then ends.
  static void cut_to_part(const Part& part, std::int64_t& char_idx, std::string& text) {
    if (!part.is_taken) {
      text.clear();
      return;
    }
    const std::int64_t block_begin = char_idx;
    char_idx += count_chars(text);
    const std::int64_t begin = std::max(part.begin, block_begin) - block_begin;
    const std::int64_t end = std::min(part.end, char_idx) - block_begin;
    if (begin >= end) {
      text.clear();
      return;
    }
    const std::size_t first = char_offset(text, begin);
    text = text.substr(first, char_offset(text, end) - first);
  }

  void tokenize(Block& block) const {
    if (trimmed(block.text).empty()) return;
    block.tokens = tokenizer_.encode(block.text);
    if (!evaluation_.empty()) block.overlap = evaluation_.overlap(block.tokens);
    block.text = {};
  }

  void judge(Block& block) {
    if (block.tokens.empty()) {
      if (block.ends_document && !block.text.empty()) ++source_.dropped["empty"];
    } else if (block.overlap.share() > options_.max_overlap) {
      ++source_.dropped["in an evaluation set"];
      block.tokens.clear();
    } else {
      add_overlap(source_, block.overlap);
    }
  }

  bool is_held_out(std::int64_t document) const {
    constexpr double num_draws = 0x1p32;
    const auto draw = mix(mix(seed_, 2), static_cast<std::uint64_t>(document)) >> 32;
    return held_out_ && static_cast<double>(draw) < options_.hold_out * num_draws;
  }
  WindowCutter& cutter_of(std::int64_t document) {
    return is_held_out(document) ? *held_out_ : rows_;
  }
  void count_document(std::int64_t document) {
    ++(is_held_out(document) ? source_.num_held_out : source_.num_kept);
  }

  void tell(std::string_view what, const TextFile& file, const DocumentReader& reader) const {
    if (!progress_) return;
    progress_(fmt::format("{} {}", what, source_.name),
              static_cast<std::int64_t>(reader.num_consumed()),
              static_cast<std::int64_t>(file.num_bytes()));
  }

  const CptPrepareOptions& options_;
  const text::Tokenizer& tokenizer_;
  const PrepareProgress& progress_;
  EvaluationSet evaluation_;
  WindowCutter rows_;
  std::optional<WindowCutter> held_out_;
  SourceReport source_;  // of the input that is read
  std::uint64_t seed_ = 0;
};

void check_cpt_options(const CptPrepareOptions& options) {
  check_options(options);
  constexpr std::int64_t max_row_len = std::int64_t{1} << 24;
  if (options.row_len < 2 || options.row_len > max_row_len) {
    input_error("data: a row of {} tokens: give a length from 2 to {}", options.row_len,
                max_row_len);
  }
  if (options.stride < 0 || options.rows_per_document < 0 || options.document_chars < 0) {
    input_error("data: --stride, --rows-per-document and --document-chars are 0 or more, not {}",
                std::min({options.stride, options.rows_per_document, options.document_chars}));
  }
  if (!(options.hold_out >= 0 && options.hold_out < 1))
    input_error("data: {} is held out: give a share from 0 to 1", options.hold_out);
  if ((options.hold_out > 0) != !options.hold_out_file.empty()) {
    input_error(
        "data: to hold documents out, give both a share (--hold-out) and a file "
        "(--hold-out-file)");
  }
  if (options.hold_out > 0 && options.hold_out_file == options.out)
    input_error("data: {}: give two files, one for what is held out", options.out.string());
}

}  // namespace

PrepareReport prepare_cpt(const CptPrepareOptions& options, const text::Tokenizer& tokenizer,
                          const PrepareProgress& progress) {
  check_cpt_options(options);
  return CptPreparation(options, tokenizer, progress).run();
}

}  // namespace gsa::train
