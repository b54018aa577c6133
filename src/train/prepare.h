#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "text/tokenizer.h"
#include "train/overlap.h"
#include "train/shard.h"

namespace gsa::train {

/// A file of the data, and how much of it is taken.
struct PrepareInput {
  std::filesystem::path path;
  std::int64_t max_tokens = 0;  ///< 0: all of it

  /// Reads `FILE` or `FILE:LIMIT`; a limit is a number of tokens such as 500000, 300k, 4M or 1.5G.
  /// A file whose name ends like that is taken as it is. Input error for a limit below one token.
  static PrepareInput parse(std::string_view text);
};

/// What both kinds of data have in common.
struct PrepareOptions {
  std::vector<PrepareInput> inputs;
  std::filesystem::path out;
  /// Evaluation sets: what is in them is dropped from the data.
  std::vector<std::filesystem::path> exclude;
  /// Share of a text's n-grams that an evaluation set may have too before the text is dropped.
  double max_overlap = 0.05;
  std::uint64_t seed = 0;
  int num_threads = 1;  ///< the result does not depend on it
};

struct CptPrepareOptions : PrepareOptions {
  std::string field = "text";   ///< of JSON records
  std::int64_t row_len = 4608;  ///< tokens per window
  std::int64_t stride = 0;      ///< from one window's beginning to the next one's; 0: `row_len`
  /// 0: documents are joined, and windows cross their borders. Otherwise every window lies within a
  /// document, and each gives its first so many.
  std::int64_t rows_per_document = 0;
  /// Longer documents give one contiguous part of so many characters, at a random place; 0: all.
  std::int64_t document_chars = 0;
  double hold_out = 0;  ///< share of the documents that goes to `hold_out_file`
  std::filesystem::path hold_out_file;
};

struct FtPrepareOptions : PrepareOptions {
  std::int64_t max_question = 40;  ///< tokens; questions that are longer are dropped
  std::int64_t max_answer = 16;
  std::int64_t max_passage = 2048;  ///< longer passages, with their questions, do not fit a row
};

/// What became of one input.
struct SourceReport {
  std::string name;  ///< file name, without its folder
  std::string sha256;
  std::int64_t num_items = 0;  ///< documents or questions in the file
  std::int64_t num_kept = 0;
  std::int64_t num_held_out = 0;
  std::int64_t num_tokens = 0;                             ///< kept, held out included
  std::map<std::string, std::int64_t> dropped;             ///< why, and how many
  std::map<std::string, std::int64_t> first_dropped_line;  ///< by reason; of questions
  Overlap overlap;         ///< with the evaluation sets, of texts that were not dropped
  double max_overlap = 0;  ///< largest share of one of them
};

struct PrepareReport {
  DataKind kind = DataKind::cpt;
  std::vector<SourceReport> sources;
  std::int64_t num_rows = 0;              ///< windows (cpt) or questions (ft)
  std::int64_t num_held_out_rows = 0;     ///< windows in the file that was held out
  std::int64_t num_passages = 0;          ///< ft: distinct ones
  std::int64_t num_tokens = 0;            ///< in the shard
  std::int64_t num_evaluation_grams = 0;  ///< distinct n-grams of the evaluation sets; 0: none
  std::string digest;

  std::string to_json() const;
  std::string to_text() const;
};

/// What is being done, and how much of how many bytes. It may throw to end the work; no file is
/// left or changed then.
using PrepareProgress =
    std::function<void(std::string_view label, std::int64_t done, std::int64_t total)>;

/// Text to windows of token ids, as `CptShard` reads them. An input with a limit gives documents in
/// a shuffled order until it is reached, others all documents in their order; behind every document
/// stands the model's end-of-text token. Documents pass through memory one by one, tokens are
/// collected on the disk beside the result.
/// Input error for data that are no text or too short for one window, and for options out of range.
PrepareReport prepare_cpt(const CptPrepareOptions& options, const text::Tokenizer& tokenizer,
                          const PrepareProgress& progress = {});

/// Records of question answering (`QaRecord`) to questions, answers and distinct passages, as
/// `FtShard` reads them. A question is dropped if it has no answer, if it, its answer or a passage
/// is too long, or if it or one of its passages is in an evaluation set; a distractor that is too
/// long or in one is left out. A limit takes questions in a shuffled order.
/// Input error for a record that lacks a field, or if no question is left.
PrepareReport prepare_ft(const FtPrepareOptions& options, const text::Tokenizer& tokenizer,
                         const PrepareProgress& progress = {});

/// The token between documents: the vocabulary's end-of-text token, or else the one that ends
/// generation. Input error if it has neither.
std::int32_t end_of_text_id(const text::Tokenizer& tokenizer);

}  // namespace gsa::train
