#include "train/made_tasks.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <memory>
#include <regex>
#include <set>

#include "core/utf8.h"
#include "data_files.h"
#include "eval/generate_names.h"
#include "support/errors.h"
#include "support/temp_dir.h"
#include "train/cloze.h"
#include "train/context_cost.h"
#include "train/ft_sampler.h"
#include "train/made_words.h"
#include "train/prepare.h"
#include "train/text_mix.h"

namespace gsa::train {
namespace {

using gsa::test::error_of;
using gsa::test::IsError;
using gsa::test::TempDir;
using test::random_text;
using test::tokenizer;
using Kind = TaskMaker::Kind;
using Tokens = std::vector<std::int32_t>;

constexpr std::int64_t kRowLen = 1600;

/// Sentences with names in them, and words that stand in few places.
std::string prose(int num_sentences, std::uint64_t seed) {
  static const std::vector<std::string> syllables = {"ta", "ri", "mo", "ne",  "su",  "lo",
                                                     "ka", "ve", "pi", "dro", "gan", "bel"};
  core::Rng rng(seed);
  const auto word = [&](std::uint32_t num_syllables) {
    std::string result;
    for (; num_syllables > 0; --num_syllables) result += syllables[rng.below(12)];
    return result;
  };
  std::string text;
  for (int i = 0; i < num_sentences; ++i) {
    text += i % 9 == 8 ? "\n\nThen " : i == 0 ? "Then " : " Then ";
    for (std::uint32_t left = 8 + rng.below(10); left > 0; --left) {
      std::string next = word(1 + rng.below(4));
      if (rng.below(10) == 0 && next.size() > 3) next[0] = static_cast<char>(next[0] - 'a' + 'A');
      text += next + (left == 1 ? "." : rng.below(9) == 0 ? ", " : " ");
    }
  }
  return text;
}

std::shared_ptr<const CptShard> shard_of_texts(const TempDir& dir, const std::string& name,
                                               const std::vector<std::string>& texts) {
  std::vector<nlohmann::json> records;
  for (const std::string& text : texts) records.push_back({{"text", text}});
  test::write_json_lines(dir / (name + ".jsonl"), records);
  CptPrepareOptions options;
  options.inputs = {{dir / (name + ".jsonl")}};
  options.out = dir / (name + ".gsa");
  options.row_len = kRowLen;
  prepare_cpt(options, tokenizer());
  return std::make_shared<CptShard>(CptShard::open(options.out, tokenizer()));
}

struct Data {
  Data() {
    std::vector<std::string> texts, odd;
    for (int i = 0; i < 10; ++i) texts.push_back(prose(250, i));
    for (int i = 0; i < 4; ++i) odd.push_back(random_text(900, i));
    std::string marks, signs;
    for (int i = 0; i < 3000; ++i) {
      marks += i % 7 == 0 ? "\n\n" : ". - ____ ";
      signs += i % 2 == 0 ? "日本" : "語の";
    }
    odd.push_back(marks);
    odd.push_back(signs);
    text = shard_of_texts(dir, "text", texts);
    odd_text = shard_of_texts(dir, "odd", odd);
    test::write_json_lines(
        dir / "qa.jsonl",
        {{{"question", "Who?"}, {"answer", "He."}, {"passages", {random_text(40, 1)}}}});
    FtPrepareOptions options;
    options.inputs = {{dir / "qa.jsonl"}};
    options.out = dir / "qa.gsa";
    prepare_ft(options, tokenizer());
    qa = std::make_shared<FtShard>(FtShard::open(dir / "qa.gsa", tokenizer()));
  }

  FtSampler sampler(const std::shared_ptr<const CptShard>& shard) const {
    return {qa, shard, tokenizer(), {.book_rows = 1, .made_tasks = MadeTasks::all}};
  }

  TempDir dir;
  std::shared_ptr<const CptShard> text, odd_text;
  std::shared_ptr<const FtShard> qa;
};

const Data& data() {
  static const Data result;
  return result;
}

RowRequest request(std::int64_t index, std::int64_t max_tokens = kRowLen,
                   std::string_view chunks = "4-4") {
  RowRequest result{{}, max_tokens, 11, index};
  if (!chunks.empty()) result.layout.chunk_sizes = attention::ChunkSizes::parse(chunks);
  return result;
}

std::int64_t context_cost(const Example& example, const attention::LayoutOptions& options) {
  std::int64_t cost = 0;
  for (std::size_t i = 0; i < example.pieces.size(); ++i) {
    cost += piece_cost(options, i == 0 ? PiecePlace::first : PiecePlace::later,
                       boundary_bits(example.pieces[i], tokenizer().word_starts()));
  }
  return cost;
}

std::string text_of(std::span<const std::int32_t> tokens) {
  return tokenizer().decode(tokens, false);
}

struct Asked {
  std::string question, answer;
};
Asked asked(const Suffix& suffix) {
  const std::span tokens(suffix.tokens);
  std::string question = text_of(tokens.first(suffix.num_prompt)).substr(2);
  question.resize(question.find("<|im_end|>"));
  const auto answer = tokens.subspan(suffix.num_prompt);
  return {question, text_of(answer.first(answer.size() - 1))};
}

int count_of(std::string_view text, std::string_view part) {
  int count = 0;
  for (auto at = text.find(part); at != std::string_view::npos; at = text.find(part, at + 1))
    ++count;
  return count;
}

/// The quote of a question with its blank filled in.
std::string filled_in(const Asked& cloze) {
  const auto begin = cloze.question.find('"') + 1;
  std::string quote = cloze.question.substr(begin, cloze.question.rfind('"') - begin);
  return quote.replace(quote.find("____"), 4, cloze.answer);
}

std::string joined(const MadeTask& task) {
  std::string text;
  for (const std::string& sentence : task.sentences) text += sentence;
  return text;
}

std::vector<MadeTask> tasks_of(Kind kind, int count) {
  std::vector<MadeTask> tasks;
  for (int i = 0; i < count; ++i) {
    core::Rng rng(i);
    tasks.push_back(TaskMaker(rng).make(kind));
  }
  return tasks;
}

TEST(MadeTasks, AreAnsweredByTheirSentences) {
  for (const Kind kind : {Kind::numbers, Kind::pairs, Kind::lengthy, Kind::joins}) {
    for (const MadeTask& task : tasks_of(kind, 300)) {
      const std::string text = joined(task);
      std::set<std::string> questions;
      for (const std::string& sentence : task.sentences)
        EXPECT_NE(std::string_view(" \n").find(sentence.front()), std::string_view::npos);
      for (const MadeQuestion& made : task.questions) {
        EXPECT_NE(text.find(made.answer), std::string::npos) << made.question;
        EXPECT_TRUE(questions.insert(made.question).second) << made.question;
        EXPECT_EQ(made.question.find("  "), std::string::npos) << made.question;
      }
      EXPECT_FALSE(task.questions.empty());
    }
  }
}

TEST(MadeTasks, FactsNameNumbers) {
  std::set<std::size_t> counts;
  for (const MadeTask& task : tasks_of(Kind::numbers, 200)) {
    counts.insert(task.questions.size());
    for (const MadeQuestion& made : task.questions)
      EXPECT_TRUE(std::regex_match(made.answer, std::regex("[0-9]{4,6}"))) << made.answer;
  }
  EXPECT_EQ(counts, (std::set<std::size_t>{2, 3, 4, 5, 6, 7, 8}));
}

/// The key of each question stands once, right in front of its value.
TEST(MadeTasks, KeysStandOnceBesideTheirValues) {
  const std::vector<std::regex> forms = {
      std::regex("What stands beside (.+) in the list of .+\\?"),
      std::regex("Which value does the list of .+ give for (.+)\\?"),
      std::regex("What is (.+) set to\\?"),
      std::regex("To which value is (.+) set\\?"),
      std::regex("What does the entry (.+) read\\?"),
      std::regex("How does the entry (.+) read\\?"),
      std::regex("What did someone write beside (.+)\\?"),
      std::regex("What is written beside (.+)\\?")};
  std::set<std::size_t> seen;
  for (const MadeTask& task : tasks_of(Kind::pairs, 400)) {
    const std::string text = joined(task);
    EXPECT_LE(task.questions.size(), 4U);
    for (const MadeQuestion& made : task.questions) {
      std::smatch match;
      std::size_t form = 0;
      while (form < forms.size() && !std::regex_match(made.question, match, forms[form])) ++form;
      ASSERT_LT(form, forms.size()) << made.question;
      seen.insert(form);
      int num_with_value = 0, num_with_key = 0;
      for (const char* between :
           {" = ", ": ", " -> ", " | ", " is set to ", " reads ", " someone wrote "}) {
        num_with_key += count_of(text, match[1].str() + between);
        num_with_value += count_of(text, match[1].str() + between + made.answer);
      }
      EXPECT_EQ(num_with_key, 1) << made.question << text;
      EXPECT_EQ(num_with_value, 1) << made.question << text;
    }
  }
  EXPECT_EQ(seen.size(), forms.size());
}

TEST(MadeTasks, LongAnswersAreLong) {
  for (const MadeTask& task : tasks_of(Kind::lengthy, 300)) {
    for (const MadeQuestion& made : task.questions) {
      const auto len = std::ssize(tokenizer().encode(made.answer));
      EXPECT_GE(len, 12) << made.answer;
      EXPECT_LE(len, 34) << made.answer;
    }
  }
}

/// The answer stands in one sentence with a name; the name asked for in another one with it.
TEST(MadeTasks, JoinsNeedBothSentences) {
  const std::regex person("[A-Z][a-z]+ [A-Z][a-z]+(?=[ .'?])");
  for (const MadeTask& task : tasks_of(Kind::joins, 300)) {
    EXPECT_GE(task.sentences.size(), 6U);
    for (const MadeQuestion& made : task.questions) {
      std::vector<std::string> names;
      const auto holding = [&](const std::string& part) {
        std::vector<std::string> found;
        for (const std::string& sentence : task.sentences)
          if (sentence.find(part) != std::string::npos) found.push_back(sentence);
        return found;
      };
      const auto second = holding(made.answer + ".");
      ASSERT_EQ(second.size(), 1U) << made.answer;
      int num_links = 0;
      for (const std::string_view first : first_names) {
        for (const std::string_view last : last_names) {
          const std::string name = fmt::format("{} {}", first, last);
          if (made.question.find(name) != std::string::npos) {
            EXPECT_EQ(second[0].find(name), std::string::npos) << "one sentence is enough";
            ASSERT_EQ(holding(name).size(), 1U);
            names.push_back(name);
          } else if (second[0].find(name) != std::string::npos) {
            ASSERT_EQ(holding(name).size(), 2U);
            ++num_links;
            names.push_back(name);
          }
        }
      }
      EXPECT_EQ(num_links, 1);
      ASSERT_EQ(names.size(), 2U);
      int num_first = 0;
      for (const std::string& sentence : holding(names[0]))
        num_first += sentence.find(names[1]) != std::string::npos;
      EXPECT_EQ(num_first, 1) << made.question;
    }
  }
}

TEST(MadeTasks, ShareNoWordWithTheEvaluation) {
  std::set<std::string_view> words(eval::name_adjectives.begin(), eval::name_adjectives.end());
  words.insert(eval::name_nouns.begin(), eval::name_nouns.end());
  for (const std::string_view word : plain_words) EXPECT_FALSE(words.contains(word)) << word;
  EXPECT_EQ(std::set(plain_words.begin(), plain_words.end()).size(), plain_words.size());
}

TEST(MadeTasks, NamesOfThem) {
  EXPECT_EQ(parse_made_tasks("numbers"), MadeTasks::numbers);
  EXPECT_EQ(parse_made_tasks("all"), MadeTasks::all);
  EXPECT_THAT(error_of([] { parse_made_tasks("some"); }),
              IsError(ErrorKind::input, "made tasks 'some': choose numbers or all"));
}

TEST(Cloze, AsksForRareWordsOnly) {
  int num_names = 0, num_words = 0;
  for (int i = 0; i < 30; ++i) {
    const std::vector<std::string> parts = {prose(60, 100 + i), prose(60, 200 + i)};
    const std::string text = parts[0] + " The secret stands here. " + parts[1];
    Cloze cloze(parts, text);
    core::Rng rng(i);
    std::set<std::string> answers;
    for (int k = 0; k < 12; ++k) {
      const auto made = cloze.draw(rng);
      ASSERT_TRUE(made);
      EXPECT_TRUE(answers.insert(made->answer).second) << made->answer;
      const std::string quote = filled_in({made->question, made->answer});
      EXPECT_EQ(count_of(text, quote), 1) << quote;
      EXPECT_EQ(count_of(quote, made->answer), 1) << "the quote tells it";
      EXPECT_EQ(quote.find("secret"), std::string::npos) << "not of the text";
      const bool is_name = made->answer[0] < 'a';
      EXPECT_LE(count_of(text, " " + made->answer + " "), is_name ? 3 : 1);
      ++(is_name ? num_names : num_words);
    }
  }
  EXPECT_GT(num_names, 100);
  EXPECT_GT(num_words, 100);
}

TEST(Cloze, FindsNothingWhereThereIsNothing) {
  core::Rng rng(1);
  for (const std::string& text :
       {std::string(), std::string("..."), std::string("word"), std::string(500, ' '),
        std::string("a a a a a a a a a a a a a a a a a a a a a a"), std::string("\uFFFD\uFFFD"),
        std::string("The The The The The The The. \uFFFD The The The The The The")}) {
    const std::vector<std::string> parts = {text};
    EXPECT_FALSE(Cloze(parts, text).draw(rng)) << text;
    EXPECT_FALSE(Cloze(parts, "another text").draw(rng)) << text;
  }
}

TEST(TextMix, PutsSentencesBetweenSentences) {
  int num_put = 0, num_behind_end = 0;
  for (int i = 0; i < 40; ++i) {
    const Tokens text = tokenizer().encode(prose(40, i));
    const std::vector<Tokens> sentences(static_cast<std::size_t>(i % 7),
                                        tokenizer().encode(" A fact [x]."));
    const TextMix mix = mix_sentences(std::span(text).subspan(3), sentences,
                                      MixPlaces::between_sentences, tokenizer(), core::Rng(i));
    ASSERT_EQ(mix.parts.size(), sentences.size() + 1);
    std::string put = text_of(mix.tokens), original;
    for (const Tokens& part : mix.parts) original += text_of(part);
    EXPECT_EQ(count_of(put, " A fact [x]."), std::ssize(sentences));
    EXPECT_NE(text_of(text).find(original), std::string::npos);
    for (auto at = put.find(" A fact"); at != std::string::npos; at = put.find(" A fact", at + 1)) {
      num_put += 1;
      num_behind_end +=
          at == 0 || std::string_view(".]").find(put[at - 1]) != std::string_view::npos;
      const char next = (put + " ")[at + std::string_view(" A fact [x].").size()];
      EXPECT_TRUE(next == ' ' || next == '\n') << "within a word: " << put;
    }
  }
  EXPECT_GT(num_behind_end, 0.8 * num_put);
  EXPECT_TRUE(mix_sentences({}, {}, MixPlaces::between_sentences, tokenizer(), core::Rng(1))
                  .tokens.empty());
}

TEST(MadeRows, FitAndArePure) {
  for (const auto& shard : {data().text, data().odd_text}) {
    const FtSampler sampler = data().sampler(shard), other = data().sampler(shard);
    for (const char* chunks : {"", "8", "32", "4-4"}) {
      for (const std::int64_t max_tokens : {120L, 300L, 1600L, 4608L}) {
        for (std::int64_t i = 25; i-- > 0;) {
          const RowRequest asked_for = request(i, max_tokens, chunks);
          const Example example = sampler.row(asked_for), again = other.row(asked_for);
          EXPECT_LE(context_cost(example, asked_for.layout), max_tokens);
          EXPECT_EQ(example.pieces, again.pieces);
          ASSERT_EQ(example.suffixes.size(), again.suffixes.size());
          ASSERT_GE(example.suffixes.size(), 1U);
          EXPECT_LE(example.suffixes.size(), 12U);
          for (std::size_t k = 0; k < example.suffixes.size(); ++k) {
            EXPECT_EQ(example.suffixes[k].tokens, again.suffixes[k].tokens);
            EXPECT_LE(example.suffixes[k].tokens.size(), 64U);
            const Asked suffix = asked(example.suffixes[k]);
            EXPECT_EQ((suffix.question + suffix.answer).find("\uFFFD"), std::string::npos);
            EXPECT_FALSE(suffix.answer.empty());
          }
        }
      }
    }
  }
}

TEST(MadeRows, HoldEveryKindAndTheirAnswers) {
  const FtSampler sampler = data().sampler(data().text);
  const std::map<std::string, std::regex> forms = {
      {"cloze", std::regex("Which word is missing here\\?")},
      {"quote", std::regex("What comes right after this quote\\?")},
      {"pair", std::regex("in the list of|the list of .* give|set|the entry|beside")},
      {"long", std::regex("full address|At which address|recipe code|watchword|journey")},
      {"join", std::regex("papers of|horse of|who lent|captain of|firm that|married")}};
  std::map<std::string, int> counts;
  for (std::int64_t i = 0; i < 150; ++i) {
    const Example example = sampler.row(request(i));
    std::string context;
    for (const Tokens& piece : example.pieces) context += text_of(piece);
    EXPECT_EQ(example.suffixes.size(), 12U);
    for (const Suffix& suffix : example.suffixes) {
      const Asked made = asked(suffix);
      EXPECT_NE(context.find(made.answer), std::string::npos) << made.question;
      std::string kind = "number";
      for (const auto& [name, form] : forms)
        if (std::regex_search(made.question, form)) kind = name;
      if (made.question.starts_with("Which word is missing")) kind = "cloze";
      if (made.question.starts_with("What comes right after")) kind = "quote";
      ++counts[kind];
      if (kind == "cloze") {
        EXPECT_EQ(count_of(context, filled_in(made)), 1) << made.question;
      }
      const std::regex papers("In which room are the papers of (.*) kept\\?");
      if (std::smatch match; std::regex_match(made.question, match, papers)) {
        const std::regex first(match[1].str() + " keeps all papers in the office of ([^.]*)\\.");
        std::smatch found;
        ASSERT_TRUE(std::regex_search(context, found, first));
        const auto second =
            fmt::format("The office of {} lies in room {}.", found[1].str(), made.answer);
        EXPECT_EQ(count_of(context, second), 1) << second;
        ++counts["papers"];
      }
    }
  }
  for (const char* kind : {"cloze", "quote", "pair", "long", "join", "number"})
    EXPECT_GT(counts[kind], 100) << kind;
  EXPECT_GT(counts["papers"], 10);
}

TEST(MadeRows, ShareOfRows) {
  const FtSampler sampler(data().qa, data().text, tokenizer(),
                          {.book_rows = 0.5, .made_tasks = MadeTasks::all});
  int num_text = 0;
  for (std::int64_t i = 0; i < 40; ++i)
    num_text += text_of(sampler.row(request(i)).pieces[1]).find("Then ") != std::string::npos;
  EXPECT_EQ(num_text, 20);
}

}  // namespace
}  // namespace gsa::train
