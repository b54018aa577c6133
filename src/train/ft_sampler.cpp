#include "train/ft_sampler.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <iterator>
#include <string>
#include <unordered_set>
#include <utility>
#include <variant>

#include "core/error.h"
#include "core/text_file.h"
#include "train/cloze.h"
#include "train/context_cost.h"
#include "train/cpt_sampler.h"
#include "train/facts.h"
#include "train/permutation.h"
#include "train/phrasing.h"

namespace gsa::train {
namespace {

using core::input_error;
using core::Rng;
using Tokens = std::vector<std::int32_t>;

constexpr int kMaxMisses = 3;            // passages that did not fit before a row counts as full
constexpr std::int64_t kMinRoom = 60;    // tokens that are not worth another passage
constexpr std::int64_t kMinQuoted = 24;  // tokens of a text that is quoted from
constexpr int kNumQuoteTries = 8;
constexpr int kNumFacts = 4;
constexpr std::int64_t kMaxShareMadeUp = 3;  // at most a third of a row is made up

template <typename T>
void shuffle(std::vector<T>& values, Rng& rng) {
  for (std::size_t i = values.size(); i > 1; --i)
    std::swap(values[i - 1], values[rng.below(static_cast<std::uint32_t>(i))]);
}

}  // namespace

/// A row as it fills.
class FtSampler::Row {
 public:
  Row(const FtSampler& sampler, const RowRequest& request)
      : request(request),
        rng(mix(request.seed, static_cast<std::uint64_t>(request.index))),
        sampler_(sampler) {
    target = request.max_tokens;
    if (rng.uniform() >= sampler.options_.full_rows && sampler.options_.min_tokens < target)
      target = draw_between<std::int64_t>(sampler.options_.min_tokens, target, rng);
    used = cost_of(sampler.prompt_.opening(), PiecePlace::first);
  }

  /// What a document costs wherever it stands: with the separator before it or, as the first one,
  /// without.
  std::int64_t document_cost(const Tokens& document) const {
    return std::max(cost_of(document, PiecePlace::later),
                    cost_of(with_separator(document), PiecePlace::later));
  }
  std::int64_t room() const { return target - used; }
  bool has_passage(std::int64_t id) const { return ids_.contains(id); }

  /// False if it does not fit.
  bool add_passage(std::int64_t id) {
    if (has_passage(id)) return true;
    Tokens document = sampler_.shard_->passage(id);
    const std::int64_t cost = document_cost(document);
    if (cost > room()) return false;
    ids_.insert(id);
    add_document(std::move(document), cost);
    return true;
  }
  void add_document(Tokens document, std::int64_t cost) {
    used += cost;
    documents.push_back(std::move(document));
  }

  /// The longest beginning of a document that still fits.
  Tokens fitting_prefix(Tokens document) const {
    const auto& word_starts = sampler_.tokenizer_.word_starts();
    document.resize(longest_prefix(request.layout, PiecePlace::later,
                                   boundary_bits(document, word_starts), room()));
    while (!document.empty() && document_cost(document) > room()) document.pop_back();
    return document;
  }

  Example finish() {
    Example example;
    shuffle(documents, rng);
    example.pieces.push_back(sampler_.prompt_.opening());
    for (const Tokens& document : documents)
      example.pieces.push_back(example.pieces.size() == 1 ? document : with_separator(document));
    example.suffixes = std::move(suffixes);
    return example;
  }

  const RowRequest& request;
  Rng rng;
  std::int64_t target = 0, used = 0;  // raw tokens and gists
  std::vector<Tokens> documents;
  std::vector<Suffix> suffixes;

 private:
  std::int64_t cost_of(const Tokens& piece, PiecePlace place) const {
    return piece_cost(request.layout, place,
                      boundary_bits(piece, sampler_.tokenizer_.word_starts()));
  }
  Tokens with_separator(const Tokens& document) const {
    Tokens piece = sampler_.prompt_.separator_before(document);
    piece.insert(piece.end(), document.begin(), document.end());
    return piece;
  }

  const FtSampler& sampler_;
  std::unordered_set<std::int64_t> ids_;
};

FtSampler::FtSampler(std::shared_ptr<const FtShard> shard, std::shared_ptr<const CptShard> text,
                     const text::Tokenizer& tokenizer, const FtSamplerOptions& options)
    : shard_(std::move(shard)),
      text_(std::move(text)),
      tokenizer_(tokenizer),
      prompt_(tokenizer),
      options_(options) {
  if (options.questions_per_row < 1 || options.quotes_per_row < 0 || options.max_suffixes < 1) {
    input_error(
        "training rows: {} questions, {} quotes and at most {} suffixes a row: give at least "
        "1, 0 and 1",
        options.questions_per_row, options.quotes_per_row, options.max_suffixes);
  }
  for (const double share :
       {options.full_rows, options.distractor_rows, options.book_rows, options.bare_book_rows}) {
    if (!(share >= 0 && share <= 1))
      input_error("training rows: {} is no share of rows: give one from 0 to 1", share);
  }
}

std::int64_t FtSampler::num_book_rows_before(std::int64_t index) const {
  if (!text_) return 0;
  return static_cast<std::int64_t>(std::floor(static_cast<double>(index) * options_.book_rows));
}

bool FtSampler::is_book_row(std::int64_t index) const {
  return num_book_rows_before(index + 1) > num_book_rows_before(index);
}

bool FtSampler::is_bare_row(std::int64_t index) const {
  const auto before = static_cast<double>(num_book_rows_before(index));
  const double share = options_.bare_book_rows;
  return is_book_row(index) && std::floor((before + 1) * share) > std::floor(before * share);
}

Tokens FtSampler::draw_window(Rng& rng) const {
  return text_->window(rng.below(static_cast<std::uint32_t>(text_->num_windows())));
}

Example FtSampler::row(const RowRequest& request) const {
  if (is_bare_row(request.index)) {
    Rng rng(mix(request.seed, static_cast<std::uint64_t>(request.index)));
    return bare_row(draw_window(rng), request, tokenizer_.word_starts());
  }
  Row row(*this, request);
  if (is_book_row(request.index)) {
    fill_with_text(row);
  } else {
    fill_with_questions(row);
    fill_with_passages(row);
    add_quotes(row, options_.quotes_per_row);
  }
  if (row.suffixes.empty()) add_quotes(row, 1);
  if (row.suffixes.empty()) {
    input_error(
        "training rows: no question and no quote fits into row {} of {} tokens: give more "
        "tokens per row",
        request.index, request.max_tokens);
  }
  return row.finish();
}

std::vector<std::int64_t> FtSampler::questions_of(const RowRequest& request) const {
  const std::int64_t num_questions = shard_->num_questions();
  const std::int64_t place =
      (request.index - num_book_rows_before(request.index)) * options_.questions_per_row;
  std::vector<std::int64_t> questions;
  for (std::int64_t i = place; i < place + options_.questions_per_row; ++i) {
    const auto epoch = static_cast<std::uint64_t>(i / num_questions);
    questions.push_back(Permutation(num_questions, mix(request.seed, epoch))(i % num_questions));
  }
  return questions;
}

void FtSampler::fill_with_questions(Row& row) const {
  const int max_questions = std::max(1, options_.max_suffixes - options_.quotes_per_row);
  for (const std::int64_t question : questions_of(row.request)) {
    if (std::ssize(row.suffixes) == max_questions) return;
    auto suffix =
        make_suffix(tokenizer_.decode(shard_->question(question), false), shard_->answer(question));
    if (!suffix) continue;
    std::int64_t cost = 0;
    for (const std::int32_t id : shard_->passages_of(question))
      if (!row.has_passage(id)) cost += row.document_cost(shard_->passage(id));
    if (cost > row.room()) continue;
    for (const std::int32_t id : shard_->passages_of(question)) row.add_passage(id);
    if (row.rng.uniform() < options_.distractor_rows)
      for (const std::int32_t id : shard_->distractors_of(question)) row.add_passage(id);
    row.suffixes.push_back(std::move(*suffix));
  }
}

void FtSampler::fill_with_passages(Row& row) const {
  const auto num_passages = static_cast<std::uint32_t>(shard_->num_passages());
  int num_misses = 0;
  // A small shard may stand in the row as a whole.
  for (std::uint32_t i = 0; i < num_passages && num_misses < kMaxMisses; ++i) {
    if (row.room() < kMinRoom) break;
    if (!row.add_passage(row.rng.below(num_passages))) ++num_misses;
  }
  if (!row.documents.empty()) return;
  Tokens document = row.fitting_prefix(shard_->passage(row.rng.below(num_passages)));
  if (document.empty()) return;
  const std::int64_t cost = row.document_cost(document);
  row.add_document(std::move(document), cost);
}

void FtSampler::fill_with_text(Row& row) const {
  const Tokens text = row.fitting_prefix(draw_window(row.rng));
  if (options_.made_tasks == MadeTasks::numbers) {
    fill_with_numbers(row, text);
  } else {
    fill_with_made_tasks(row, text);
  }
  add_quotes(row, options_.max_suffixes);
}

bool FtSampler::add_mix(Row& row, const Tokens& text, const std::vector<Tokens>& sentences,
                        MixPlaces places, TextMix& mix) const {
  std::int64_t len = std::ssize(text), excess = 0;
  do {
    mix = mix_sentences(std::span(text).first(len), sentences, places, tokenizer_, row.rng);
    excess = row.document_cost(mix.tokens) - row.room();
    len -= (excess + 1) / 2;  // a token costs itself and at most one gist
  } while (excess > 0 && len >= 0);
  const bool fits = excess <= 0;
  if (!fits) mix = {text, {text}};
  row.add_document(mix.tokens, row.document_cost(mix.tokens));
  return fits;
}

void FtSampler::fill_with_numbers(Row& row, const Tokens& text) const {
  const std::vector<Fact> facts = draw_facts(kNumFacts, row.rng);
  std::vector<Tokens> sentences;
  for (const Fact& fact : facts) sentences.push_back(tokenizer_.encode(fact.sentence));
  TextMix mix;
  if (!add_mix(row, text, sentences, MixPlaces::between_tokens, mix)) return;
  for (const Fact& fact : facts) {
    auto suffix = make_suffix(fact.question, tokenizer_.encode(fact.answer));
    if (suffix && std::ssize(row.suffixes) < options_.max_suffixes)
      row.suffixes.push_back(std::move(*suffix));
  }
}

/// Kinds of tasks, each at most once, until the row has the questions it takes.
void FtSampler::fill_with_made_tasks(Row& row, const Tokens& text) const {
  using Kind = TaskMaker::Kind;
  struct AboutText {
    bool is_cloze;  // otherwise quotes
  };
  std::vector<std::variant<Kind, AboutText>> kinds = {
      Kind::numbers, Kind::pairs, Kind::lengthy, Kind::joins, AboutText{true}, AboutText{false}};
  shuffle(kinds, row.rng);
  TaskMaker maker(row.rng);
  std::vector<Tokens> sentences;
  std::vector<Suffix> suffixes;
  std::int64_t num_put_in = 0;
  int num_clozes = 0, num_quotes = 0;
  for (const auto& kind : kinds) {
    if (std::ssize(suffixes) + num_clozes + num_quotes >= options_.max_suffixes) break;
    if (const auto* about_text = std::get_if<AboutText>(&kind)) {
      (about_text->is_cloze ? num_clozes : num_quotes) = draw_between(2, 4, row.rng);
      continue;
    }
    const MadeTask task = maker.make(std::get<Kind>(kind));
    std::vector<Tokens> task_sentences;
    std::int64_t num_tokens = 0;
    for (const std::string& sentence : task.sentences)
      num_tokens += std::ssize(task_sentences.emplace_back(tokenizer_.encode(sentence)));
    if (num_put_in + num_tokens > row.room() / kMaxShareMadeUp) continue;
    num_put_in += num_tokens;
    std::ranges::move(task_sentences, std::back_inserter(sentences));
    for (const MadeQuestion& made : task.questions)
      if (auto suffix = make_suffix(made.question, tokenizer_.encode(made.answer)))
        suffixes.push_back(std::move(*suffix));
  }
  shuffle(sentences, row.rng);
  TextMix mix;
  if (!add_mix(row, text, sentences, MixPlaces::between_sentences, mix)) return;
  const auto max_made = std::max(0, options_.max_suffixes - num_clozes - num_quotes);
  if (std::ssize(suffixes) > max_made) suffixes.resize(max_made);
  row.suffixes = std::move(suffixes);
  add_clozes(row, mix, num_clozes);
}

void FtSampler::add_clozes(Row& row, const TextMix& mix, int count) const {
  std::vector<std::string> parts;
  for (const Tokens& part : mix.parts) parts.push_back(tokenizer_.decode(part, false));
  const std::string text = tokenizer_.decode(mix.tokens, false);
  Cloze cloze(parts, text);
  for (int i = 0; i < count && std::ssize(row.suffixes) < options_.max_suffixes; ++i) {
    for (int attempt = 0; attempt < kNumQuoteTries; ++attempt) {
      const auto made = cloze.draw(row.rng);
      if (!made) return;
      if (auto suffix = make_suffix(made->question, tokenizer_.encode(made->answer))) {
        row.suffixes.push_back(std::move(*suffix));
        break;
      }
    }
  }
}

void FtSampler::add_quotes(Row& row, int count) const {
  if (row.documents.empty()) return;
  for (int i = 0; i < count && std::ssize(row.suffixes) < options_.max_suffixes; ++i) {
    const auto num_documents = static_cast<std::uint32_t>(row.documents.size());
    std::optional<Suffix> quote;
    for (int attempt = 0; attempt < kNumQuoteTries && !quote; ++attempt)
      quote = make_quote(row.documents[row.rng.below(num_documents)], row.rng);
    if (quote) row.suffixes.push_back(std::move(*quote));
  }
}

std::optional<Suffix> FtSampler::make_suffix(std::string_view question,
                                             const Tokens& answer) const {
  Suffix suffix{prompt_.question(question)};
  suffix.num_prompt = std::ssize(suffix.tokens);
  suffix.tokens.insert(suffix.tokens.end(), answer.begin(), answer.end());
  suffix.tokens.push_back(prompt_.end_of_turn());
  if (std::ssize(suffix.tokens) > options_.max_suffix_len) return std::nullopt;
  return suffix;
}

/// Quote and answer begin and end where words do, or at least characters, so that they are text
/// that a user could write.
std::optional<Suffix> FtSampler::make_quote(const Tokens& piece, Rng& rng) const {
  constexpr std::int64_t min_quote = 8, max_quote = 14, min_answer = 6, max_answer = 12;
  constexpr std::int64_t max_shift = 8;
  const auto len = std::ssize(piece);
  if (len < kMinQuoted) return std::nullopt;
  const auto& word_starts = tokenizer_.word_starts();
  const auto to_word = [&](std::int64_t begin) {
    for (std::int64_t i = begin; i < std::min(len, begin + max_shift); ++i)
      if (word_starts[piece[i]]) return i;
    return begin;
  };
  const auto text = [&](std::int64_t begin, std::int64_t end) {
    const std::string decoded =
        tokenizer_.decode(std::span(piece).subspan(begin, end - begin), false);
    const bool is_broken = decoded.find("\uFFFD") != std::string::npos;
    return is_broken ? std::string() : std::string(core::trimmed(decoded));
  };
  const std::int64_t last = std::max<std::int64_t>(0, len - max_quote - max_answer - max_shift);
  const std::int64_t begin = to_word(draw_between<std::int64_t>(0, last, rng));
  const std::int64_t middle =
      to_word(begin + draw_between<std::int64_t>(min_quote, max_quote, rng));
  const std::int64_t end =
      to_word(middle + draw_between<std::int64_t>(min_answer, max_answer, rng));
  if (end > len) return std::nullopt;
  const std::string quote = text(begin, middle), answer = text(middle, end);
  if (quote.empty() || answer.empty()) return std::nullopt;
  return make_suffix(fmt::format("What comes right after this quote? \"{}\"", quote),
                     tokenizer_.encode(answer));
}

}  // namespace gsa::train
