#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <set>

#include "data_files.h"
#include "support/errors.h"
#include "support/temp_dir.h"
#include "text/sha256.h"
#include "train/context_cost.h"
#include "train/cpt_sampler.h"
#include "train/facts.h"
#include "train/ft_sampler.h"
#include "train/permutation.h"
#include "train/prepare.h"
#include "train/rows.h"

namespace gsa::train {
namespace {

using gsa::test::error_of;
using gsa::test::IsError;
using gsa::test::TempDir;
using test::random_text;
using test::tokenizer;
using test::write_json_lines;
using Tokens = std::vector<std::int32_t>;

constexpr std::int64_t kRowLen = 1600;

/// A prepared set of texts and one of questions, made once.
struct Data {
  Data() {
    std::vector<nlohmann::json> texts, questions;
    for (int i = 0; i < 12; ++i) texts.push_back({{"text", random_text(900, i)}});
    for (int i = 0; i < 150; ++i) {
      questions.push_back({{"question", "About " + std::to_string(i) + "?"},
                           {"answer", "It is " + std::to_string(i * 7) + "."},
                           {"passages", {random_text(20 + i % 50, 500 + i)}},
                           {"distractors", {random_text(30, 5000 + i)}}});
    }
    write_json_lines(dir / "text.jsonl", texts);
    write_json_lines(dir / "qa.jsonl", questions);
    CptPrepareOptions cpt_options;
    cpt_options.inputs = {{dir / "text.jsonl"}};
    cpt_options.out = dir / "text.gsa";
    cpt_options.row_len = kRowLen;
    prepare_cpt(cpt_options, tokenizer());
    FtPrepareOptions ft_options;
    ft_options.inputs = {{dir / "qa.jsonl"}};
    ft_options.out = dir / "qa.gsa";
    prepare_ft(ft_options, tokenizer());
    text = std::make_shared<CptShard>(CptShard::open(dir / "text.gsa", tokenizer()));
    qa = std::make_shared<FtShard>(FtShard::open(dir / "qa.gsa", tokenizer()));
  }

  TempDir dir;
  std::shared_ptr<const CptShard> text;
  std::shared_ptr<const FtShard> qa;
};

const Data& data() {
  static const Data result;
  return result;
}

attention::LayoutOptions layout_of(std::string_view chunks) {
  attention::LayoutOptions options;
  if (chunks != "none") options.chunk_sizes = attention::ChunkSizes::parse(chunks);
  return options;
}

/// Raw tokens and gists of all pieces, by the layout of the whole.
std::int64_t context_cost(const Example& example, const attention::LayoutOptions& options) {
  attention::Layout layout(options);
  for (const Tokens& piece : example.pieces) {
    layout.append(boundary_bits(piece, tokenizer().word_starts()));
    layout.end_piece();
  }
  std::int64_t cost = layout.num_raw();
  for (int level = 0; level < layout.num_levels(); ++level) cost += layout.num_nodes(level);
  return cost;
}

bool same(const Example& a, const Example& b) {
  return a.pieces == b.pieces &&
         std::ranges::equal(a.suffixes, b.suffixes, [](const Suffix& x, const Suffix& y) {
           return x.tokens == y.tokens && x.num_prompt == y.num_prompt;
         });
}

std::string text_of(const Tokens& tokens) { return tokenizer().decode(tokens, false); }
std::string prompt_of(const Suffix& suffix) {
  return text_of(Tokens(suffix.tokens.begin(), suffix.tokens.begin() + suffix.num_prompt));
}
std::string answer_of(const Suffix& suffix) {
  return text_of(Tokens(suffix.tokens.begin() + suffix.num_prompt, suffix.tokens.end()));
}
std::string context_of(const Example& example) {
  std::string text;
  for (const Tokens& piece : example.pieces) text += text_of(piece);
  return text;
}

class SamplerOfLayout : public testing::TestWithParam<const char*> {
 protected:
  RowRequest request(std::int64_t index, std::int64_t max_tokens = kRowLen) const {
    return {layout_of(GetParam()), max_tokens, 11, index};
  }
};

TEST_P(SamplerOfLayout, CptRowsFitAndAreFull) {
  const CptSampler sampler(data().text, tokenizer());
  for (const std::int64_t max_tokens : {2L, 3L, 10L, 100L, 1601L, 5000L}) {
    for (std::int64_t i = 0; i < 2 * data().text->num_windows(); ++i) {
      const RowRequest asked = request(i, max_tokens);
      if (max_tokens == 2 && !asked.layout.chunk_sizes.sizes.empty()) {
        EXPECT_THAT(error_of([&] { sampler.row(asked); }),
                    IsError(ErrorKind::input, "no room for text"));
        continue;
      }
      if (max_tokens == 3 && asked.layout.chunk_sizes.num_levels() > 1) continue;
      const Example example = sampler.row(asked);
      ASSERT_EQ(example.pieces.size(), 1U);
      const std::int64_t cost = context_cost(example, asked.layout);
      EXPECT_LE(cost, max_tokens);
      const std::int64_t full = std::min(max_tokens, kRowLen);
      EXPECT_GE(cost, full - 3) << "another token and its gists would not have fitted";
      EXPECT_TRUE(same(example, sampler.row(asked)));
    }
  }
}

TEST_P(SamplerOfLayout, FtRowsFitAndAlwaysAsk) {
  const FtSampler sampler(data().qa, data().text, tokenizer());
  const FtPrompt prompt(tokenizer());
  for (const std::int64_t max_tokens : {150L, 400L, 1600L, 4608L}) {
    for (std::int64_t i = 0; i < 40; ++i) {
      const RowRequest asked = request(i, max_tokens);
      const Example example = sampler.row(asked);
      EXPECT_LE(context_cost(example, asked.layout), max_tokens);
      ASSERT_GE(example.pieces.size(), 2U);
      EXPECT_EQ(example.pieces[0], prompt.opening());
      if (example.pieces.size() > 2) {  // text may begin anywhere
        EXPECT_FALSE(text_of(example.pieces[1]).starts_with("\n"));
      }
      for (std::size_t k = 2; k < example.pieces.size(); ++k)
        EXPECT_TRUE(text_of(example.pieces[k]).starts_with("\n\n"));
      ASSERT_GE(example.suffixes.size(), 1U);
      EXPECT_LE(example.suffixes.size(), 12U);
      for (const Suffix& suffix : example.suffixes) {
        EXPECT_LE(suffix.tokens.size(), 64U);
        EXPECT_LT(suffix.num_prompt + 1, std::ssize(suffix.tokens));
        EXPECT_EQ(suffix.tokens.back(), prompt.end_of_turn());
        EXPECT_TRUE(prompt_of(suffix).ends_with("<|im_start|>assistant\n"));
        EXPECT_EQ(std::count(suffix.tokens.begin() + suffix.num_prompt, suffix.tokens.end(),
                             prompt.end_of_turn()),
                  1);
      }
    }
  }
}

TEST_P(SamplerOfLayout, FtRowsArePure) {
  const FtSampler sampler(data().qa, data().text, tokenizer());
  const FtSampler other(data().qa, data().text, tokenizer());
  std::set<std::string> contexts;
  for (std::int64_t i = 30; i-- > 0;) {
    const Example example = sampler.row(request(i));
    EXPECT_TRUE(same(example, other.row(request(i))));
    contexts.insert(context_of(example));
    RowRequest reseeded = request(i);
    ++reseeded.seed;
    EXPECT_FALSE(same(example, sampler.row(reseeded)));
  }
  EXPECT_EQ(contexts.size(), 30U);
}

INSTANTIATE_TEST_SUITE_P(Layouts, SamplerOfLayout,
                         testing::Values("none", "8", "16", "32", "4-4", "8-4"),
                         [](const auto& info) {
                           std::string name = info.param;
                           std::ranges::replace(name, '-', '_');
                           return "chunks_" + name;
                         });

TEST(CptSampler, SeesEveryWindowOnceAnEpoch) {
  const CptSampler sampler(data().text, tokenizer());
  const std::int64_t count = data().text->num_windows();
  std::set<std::vector<Tokens>> orders;
  for (std::int64_t epoch = 0; epoch < 3; ++epoch) {
    std::vector<Tokens> seen, expected;
    for (std::int64_t i = 0; i < count; ++i) {
      seen.push_back(sampler.row({layout_of("none"), kRowLen, 5, epoch * count + i}).pieces[0]);
      expected.push_back(data().text->window(i));
    }
    orders.insert(seen);
    std::ranges::sort(seen);
    std::ranges::sort(expected);
    EXPECT_EQ(seen, expected);
  }
  EXPECT_EQ(orders.size(), 3U);
}

TEST(FtSampler, AsksEveryQuestionOnceAnEpoch) {
  const FtSampler sampler(data().qa, nullptr, tokenizer(), {.full_rows = 1});
  const std::int64_t num_rows = data().qa->num_questions() / 10;
  for (std::int64_t epoch = 0; epoch < 2; ++epoch) {
    std::map<std::string, int> asked;
    for (std::int64_t i = 0; i < num_rows; ++i) {
      const Example example = sampler.row({layout_of("16"), 4608, 3, epoch * num_rows + i});
      for (const Suffix& suffix : example.suffixes) ++asked[prompt_of(suffix)];
    }
    const FtPrompt prompt(tokenizer());
    for (std::int64_t q = 0; q < data().qa->num_questions(); ++q)
      EXPECT_EQ(asked[text_of(prompt.question(text_of(data().qa->question(q))))], 1);
  }
}

TEST(FtSampler, AnswersStandInTheContext) {
  const FtSampler sampler(data().qa, nullptr, tokenizer());
  int num_asked = 0, num_quotes = 0, num_with_distractors = 0;
  for (std::int64_t i = 0; i < 30; ++i) {
    const Example example = sampler.row({layout_of("8"), kRowLen, 1, i});
    const std::string context = context_of(example);
    for (const Suffix& suffix : example.suffixes) {
      std::string answer = answer_of(suffix);
      answer.resize(answer.size() - std::string_view("<|im_end|>").size());
      if (const auto quote = prompt_of(suffix).find("quote? \""); quote != std::string::npos) {
        const std::size_t begin = quote + 8;
        const std::string quoted =
            prompt_of(suffix).substr(begin, prompt_of(suffix).rfind('"') - begin);
        const auto at = context.find(quoted);
        ASSERT_NE(at, std::string::npos) << quoted;
        const auto answer_at = context.find(answer, at + quoted.size());
        EXPECT_LE(answer_at, at + quoted.size() + 2) << "right behind it, but for white space";
        ++num_quotes;
        continue;
      }
      const std::int64_t number = std::stoll(answer.substr(6)) / 7;
      EXPECT_EQ(answer, "It is " + std::to_string(number * 7) + ".");
      EXPECT_NE(prompt_of(suffix).find("About " + std::to_string(number) + "?"), std::string::npos);
      EXPECT_NE(context.find(random_text(20 + number % 50, 500 + number)), std::string::npos);
      num_with_distractors += context.find(random_text(30, 5000 + number)) != std::string::npos;
      ++num_asked;
    }
  }
  EXPECT_EQ(num_quotes, 60);
  EXPECT_GT(num_asked, 150);
  EXPECT_NEAR(static_cast<double>(num_with_distractors) / num_asked, 0.5, 0.2);
}

TEST(FtSampler, LengthsVary) {
  const FtSampler sampler(data().qa, nullptr, tokenizer());
  int num_full = 0;
  const int num_rows = 200;
  for (std::int64_t i = 0; i < num_rows; ++i) {
    const std::int64_t cost =
        context_cost(sampler.row({layout_of("16"), 4608, 2, i}), layout_of("16"));
    num_full += cost > 4400;
    EXPECT_GT(cost, 1000);
  }
  EXPECT_NEAR(num_full, 0.65 * num_rows, 35);  // and a few that were drawn nearly as long
}

TEST(FtSampler, BookRowsHoldFacts) {
  const FtSampler sampler(data().qa, data().text, tokenizer());
  int num_books = 0;
  for (std::int64_t i = 0; i < 200; ++i) {
    const Example example = sampler.row({layout_of("4-4"), kRowLen, 4, i});
    if (example.pieces.size() > 2) continue;
    ++num_books;
    EXPECT_GE(example.suffixes.size(), 10U);
    const std::string context = context_of(example);
    for (int k = 0; k < 4; ++k) {
      std::string answer = answer_of(example.suffixes[k]);
      answer.resize(answer.size() - std::string_view("<|im_end|>").size());
      EXPECT_GE(answer.size(), 4U);
      EXPECT_LE(answer.size(), 6U);
      EXPECT_NE(context.find(answer), std::string::npos);
    }
  }
  EXPECT_EQ(num_books, 30);
}

TEST(FtSampler, BareRowsAreTextAlone) {
  const FtSampler some(data().qa, data().text, tokenizer(),
                       {.book_rows = 0.25, .bare_book_rows = 0.5});
  const FtSampler none(data().qa, data().text, tokenizer(), {.book_rows = 0.25});
  int num_plain = 0;
  for (std::int64_t i = 0; i < 80; ++i) {
    const Example example = some.row({layout_of("8"), kRowLen, 4, i});
    if (!example.suffixes.empty()) {  // the same as ever
      const Example same = none.row({layout_of("8"), kRowLen, 4, i});
      EXPECT_EQ(example.pieces, same.pieces);
      ASSERT_EQ(example.suffixes.size(), same.suffixes.size());
      for (std::size_t k = 0; k < same.suffixes.size(); ++k)
        EXPECT_EQ(example.suffixes[k].tokens, same.suffixes[k].tokens);
      continue;
    }
    ++num_plain;
    ASSERT_EQ(example.pieces.size(), 1U);
    bool is_of_the_text = false;
    for (std::int64_t w = 0; w < data().text->num_windows(); ++w) {
      const Tokens window = data().text->window(w);
      const auto [end, rest] = std::ranges::mismatch(example.pieces[0], window);
      is_of_the_text |= end == example.pieces[0].end();
    }
    EXPECT_TRUE(is_of_the_text);
    const std::vector<attention::PolicySpec> policy = {row_policy(layout_of("8").chunk_sizes, {})};
    const PackedRows rows = pack_rows(std::span(&example, 1), policy, tokenizer().word_starts());
    EXPECT_LE(rows.num_tokens(), kRowLen);
    EXPECT_GT(rows.num_tokens(), kRowLen - 32);
  }
  EXPECT_EQ(num_plain, 10);
}

/// The published adapter's recipe depends on them: its rows must not change.
TEST(FtSampler, DefaultRowsAreAlwaysTheSame) {
  const FtSampler sampler(data().qa, data().text, tokenizer());
  text::Sha256 hash;
  const auto add = [&](const Tokens& tokens) {
    hash.update_u32(static_cast<std::uint32_t>(tokens.size()));
    for (const std::int32_t id : tokens) hash.update_u32(static_cast<std::uint32_t>(id));
  };
  for (std::int64_t i = 0; i < 60; ++i) {
    const std::int64_t max_tokens = i % 3 == 0 ? 400 : kRowLen;
    const Example example = sampler.row({layout_of(i % 2 == 0 ? "8" : "4-4"), max_tokens, 7, i});
    for (const Tokens& piece : example.pieces) add(piece);
    for (const Suffix& suffix : example.suffixes) add(suffix.tokens);
  }
  EXPECT_EQ(hash.finish(), "8b33a3966fd24b2a5b4daa04b8b728a0dc5f441e623bfec95f4607551ea7a7a4");
}

TEST(FtSampler, RefusesRowsWithoutRoom) {
  const FtSampler sampler(data().qa, nullptr, tokenizer());
  EXPECT_THAT(error_of([&] { sampler.row({layout_of("8"), 20, 1, 0}); }),
              IsError(ErrorKind::input, "give more tokens per row"));
  EXPECT_THAT(error_of([&] { FtSampler(data().qa, nullptr, tokenizer(), {.full_rows = 1.5}); }),
              IsError(ErrorKind::input, "1.5 is no share"));
  EXPECT_THAT(
      error_of([&] { FtSampler(data().qa, nullptr, tokenizer(), {.questions_per_row = 0}); }),
      IsError(ErrorKind::input, "0 questions"));
}

TEST(FtPrompt, IsWhatTheTokenizerMakesOfTheWhole) {
  const FtPrompt prompt(tokenizer());
  for (const char* text : {"A text.", "(1) item", "9 lives", "日本", "'s", "Über"}) {
    const Tokens ids = tokenizer().encode(text);
    Tokens joined = prompt.separator_before(ids);
    joined.insert(joined.end(), ids.begin(), ids.end());
    EXPECT_EQ(joined, tokenizer().encode(std::string("\n\n") + text)) << text;
  }
  EXPECT_TRUE(text_of(prompt.opening()).ends_with("<|im_start|>user\n"));
  EXPECT_EQ(text_of(prompt.question("Why?")), "\n\nWhy?<|im_end|>\n<|im_start|>assistant\n");
}

TEST(Facts, AreDistinctAndAskForTheirNumber) {
  core::Rng rng(1);
  std::set<std::string> sentences;
  for (int i = 0; i < 100; ++i) {
    std::set<std::string> questions;
    for (const Fact& fact : draw_facts(4, rng)) {
      EXPECT_NE(fact.sentence.find(fact.answer), std::string::npos);
      EXPECT_EQ(fact.sentence.front(), ' ');
      questions.insert(fact.question);
      sentences.insert(fact.sentence);
    }
    EXPECT_EQ(questions.size(), 4U);
  }
  EXPECT_GT(sentences.size(), 390U);
}

TEST(Permutation, IsOne) {
  for (const std::int64_t size : {1, 2, 3, 4, 5, 17, 64, 65, 1000}) {
    std::set<std::int64_t> seen;
    for (std::int64_t i = 0; i < size; ++i) seen.insert(Permutation(size, 9)(i));
    EXPECT_EQ(std::ssize(seen), size);
    EXPECT_EQ(*seen.begin(), 0);
    EXPECT_EQ(*seen.rbegin(), size - 1);
  }
}

TEST(ContextCost, LongestPrefixIsTheLongest) {
  const Tokens tokens = tokenizer().encode(random_text(300, 8));
  const auto bits = boundary_bits(tokens, tokenizer().word_starts());
  for (const char* chunks : {"none", "2", "8", "16", "4-4", "8-4"}) {
    const auto options = layout_of(chunks);
    for (const PiecePlace place : {PiecePlace::first, PiecePlace::later}) {
      for (std::int64_t max_cost = -1; max_cost < 200; ++max_cost) {
        const std::int64_t len = longest_prefix(options, place, bits, max_cost);
        if (len > 0) {
          EXPECT_LE(piece_cost(options, place, std::span(bits).first(len)), max_cost);
        }
        EXPECT_GT(piece_cost(options, place, std::span(bits).first(len + 1)), max_cost);
      }
    }
  }
}

}  // namespace
}  // namespace gsa::train
