#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "core/rng.h"
#include "text/tokenizer.h"
#include "train/ft_prompt.h"
#include "train/made_tasks.h"
#include "train/sampler.h"
#include "train/shard.h"
#include "train/text_mix.h"

namespace gsa::train {

struct FtSamplerOptions {
  int questions_per_row = 10;  ///< drawn for a row; those whose passages do not fit are left out
  int quotes_per_row = 2;      ///< tasks "what comes right after this quote?"
  int max_suffixes = 12;
  std::int64_t max_suffix_len =
      64;                   ///< tokens of a question with its answer; longer ones are left out
  double full_rows = 0.65;  ///< share of rows that are filled; the others are shorter
  std::int64_t min_tokens = 1200;  ///< shortest target of those
  double distractor_rows = 0.5;    ///< share of questions whose own distractors stand in the row
  double book_rows = 0.15;         ///< share of rows that are of the text; needs one
  double bare_book_rows = 0;  ///< share of those that are bare: text alone, the others have facts
                              ///< put in
  MadeTasks made_tasks = MadeTasks::numbers;  ///< what those facts are
};

/// Rows of selective finetuning (method §4): contexts of shuffled passages with questions about
/// them, each a suffix of its own; and, if they are asked for, bare rows. Every epoch goes through
/// all questions in an order of its own, row i of those with questions taking the next
/// `questions_per_row`.
class FtSampler : public Sampler {
 public:
  /// `text` may be null: no book rows then. Input error if the model's chat template is not known
  /// or an option is out of range.
  FtSampler(std::shared_ptr<const FtShard> shard, std::shared_ptr<const CptShard> text,
            const text::Tokenizer& tokenizer, const FtSamplerOptions& options = {});

  /// The chat's opening, passages with blank lines between them, and 1 to `max_suffixes` suffixes;
  /// or a text alone, without suffixes. Input error if `max_tokens` has no room for a passage.
  Example row(const RowRequest& request) const override;

 private:
  class Row;

  /// Whether a row is of text, and alone; and how many rows before it are of text.
  bool is_book_row(std::int64_t index) const;
  bool is_bare_row(std::int64_t index) const;
  std::int64_t num_book_rows_before(std::int64_t index) const;

  std::vector<std::int32_t> draw_window(core::Rng& rng) const;

  void fill_with_questions(Row& row) const;
  void fill_with_passages(Row& row) const;
  void fill_with_text(Row& row) const;
  void fill_with_numbers(Row& row, const std::vector<std::int32_t>& text) const;
  void fill_with_made_tasks(Row& row, const std::vector<std::int32_t>& text) const;
  /// Adds as much of a text as the row has room for, with the sentences in it; false, and the text
  /// alone, if they do not fit. `mix` is what was added.
  bool add_mix(Row& row, const std::vector<std::int32_t>& text,
               const std::vector<std::vector<std::int32_t>>& sentences, MixPlaces places,
               TextMix& mix) const;
  void add_clozes(Row& row, const TextMix& mix, int count) const;
  void add_quotes(Row& row, int count) const;
  std::vector<std::int64_t> questions_of(const RowRequest& request) const;
  std::optional<Suffix> make_suffix(std::string_view question,
                                    const std::vector<std::int32_t>& answer) const;
  std::optional<Suffix> make_quote(const std::vector<std::int32_t>& piece, core::Rng& rng) const;

  std::shared_ptr<const FtShard> shard_;
  std::shared_ptr<const CptShard> text_;
  text::Tokenizer tokenizer_;
  FtPrompt prompt_;
  FtSamplerOptions options_;
};

}  // namespace gsa::train
