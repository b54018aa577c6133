#include "train/made_tasks.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <array>
#include <functional>
#include <utility>

#include "core/error.h"
#include "core/utf8.h"
#include "train/facts.h"
#include "train/made_words.h"
#include "train/phrasing.h"

namespace gsa::train {
namespace {

using core::Rng;

template <typename List>
const auto& pick(const List& list, Rng& rng) {
  return list[rng.below(static_cast<std::uint32_t>(std::size(list)))];
}

std::string draw_chars(std::string_view alphabet, int count, Rng& rng) {
  std::string chars;
  while (std::ssize(chars) < count) chars += pick(alphabet, rng);
  return chars;
}

/// Does not begin with 0.
std::string draw_number(int num_digits, Rng& rng) {
  return draw_chars("123456789", 1, rng) + draw_chars("0123456789", num_digits - 1, rng);
}

/// Something random that was not drawn before.
std::string draw_new(std::set<std::string>& drawn, const std::function<std::string()>& draw) {
  while (true) {
    const auto [made, is_new] = drawn.insert(draw());
    if (is_new) return *made;
  }
}

std::vector<std::string> draw_words(int count, Rng& rng) {
  std::set<std::string> drawn;
  std::vector<std::string> words;
  while (std::ssize(words) < count)
    words.push_back(draw_new(drawn, [&] { return std::string(pick(plain_words, rng)); }));
  return words;
}

std::string capitalised(std::string word) {
  word[0] = static_cast<char>(word[0] - 'a' + 'A');
  return word;
}

std::string filled(const char* pattern, std::string_view a, std::string_view b = {}) {
  return fmt::format(fmt::runtime(pattern), a, b);
}

constexpr std::array<Phrasing, 8> kNumberPhrasings = {{
    {" The invoice of {0} bears the number {1}.",
     {"Which number does the invoice of {0} bear?", "What is the number on {0}'s invoice?"}},
    {" {0} was given the badge {1}.",
     {"Which badge was {0} given?", "What is the number of {0}'s badge?"}},
    {" The telephone extension of {0} is {1}.",
     {"What is {0}'s telephone extension?", "Under which extension can one reach {0}?"}},
    {" According to the register, {0} owns {1} acres of land.",
     {"How many acres of land does {0} own?", "How much land does {0} own, in acres?"}},
    {" The parcel for {0} weighs {1} grams.",
     {"How many grams does the parcel for {0} weigh?", "What is the weight of {0}'s parcel?"}},
    {" In the archive, the file on {0} is kept under {1}.",
     {"Under which number is the file on {0} kept?", "Where in the archive is {0}'s file?"}},
    {" {0} won the raffle with ticket {1}.",
     {"With which ticket did {0} win the raffle?", "What was {0}'s winning ticket?"}},
    {" The safe of {0} opens with {1}.",
     {"With which combination does the safe of {0} open?", "What opens {0}'s safe?"}},
}};

/// Two sentences that lead to an answer: {0} is asked for, {1} stands in both; in `second`, {0} is
/// what stands in both, {1} the answer.
struct Join {
  const char* first;
  const char* second;
  const char* question;
  bool ends_in_town;  // otherwise in a number
};

constexpr std::array<Join, 6> kJoins = {{
    {" {0} keeps all papers in the office of {1}.", " The office of {0} lies in room {1}.",
     "In which room are the papers of {0} kept?", false},
    {" The horse of {0} stands in the stable of {1}.", " The stable of {0} has the number {1}.",
     "What is the number of the stable in which the horse of {0} stands?", false},
    {" {0} borrowed a book from {1}.", " The library card of {0} has the number {1}.",
     "What is the number on the library card of the person who lent {0} a book?", false},
    {" The ship of {0} sails under Captain {1}.", " Captain {0} comes from {1}.",
     "From which town does the captain of {0}'s ship come?", true},
    {" {0} is employed by {1}.", " The firm of {0} has its seat in {1}.",
     "In which town is the firm that employs {0}?", true},
    {" {0} is married to {1}.", " The birthplace of {0} is {1}.",
     "In which town was the person born whom {0} married?", true},
}};

/// Keys that resemble each other: each shares a part with one before it, more often than not.
class KeyDraw {
 public:
  explicit KeyDraw(Rng& rng) : rng_(rng), style_(draw_between(0, 3, rng)) {}

  std::string operator()() {
    return draw_new(drawn_, [&] {
      std::pair<std::string, std::string> key{first_part(), second_part()};
      if (!parts_.empty() && rng_.below(3) > 0) {
        const auto& sibling = pick(parts_, rng_);
        (rng_.below(2) == 0 ? key.first = sibling.first : key.second = sibling.second);
      }
      parts_.push_back(key);
      return key.first + separator() + key.second;
    });
  }

 private:
  std::string first_part() {
    if (style_ == 0) return draw_chars("ABCDEFGHJKLMNPQRSTUVWXYZ", 2, rng_);
    return std::string(style_ == 3 ? pick(first_names, rng_) : pick(plain_words, rng_));
  }
  std::string second_part() {
    if (style_ == 0) return draw_number(3, rng_);
    if (style_ == 1) return draw_number(2, rng_);
    return std::string(style_ == 3 ? pick(last_names, rng_) : pick(plain_words, rng_));
  }
  const char* separator() const {
    constexpr std::array<const char*, 4> separators = {"-", "_", "/", " "};
    return separators[static_cast<std::size_t>(style_)];
  }

  Rng& rng_;
  int style_;
  std::set<std::string> drawn_;
  std::vector<std::pair<std::string, std::string>> parts_;
};

/// Values of one form.
class ValueDraw {
 public:
  explicit ValueDraw(Rng& rng) : rng_(rng), style_(draw_between(0, 2, rng)) {}

  std::string operator()() {
    return draw_new(drawn_, [&] {
      if (style_ == 0) return draw_number(draw_between(3, 6, rng_), rng_);
      if (style_ == 1) return draw_chars("0123456789abcdef", 6, rng_);
      return fmt::format("{}", fmt::join(draw_words(2, rng_), " "));
    });
  }

 private:
  Rng& rng_;
  int style_;
  std::set<std::string> drawn_;
};

std::string draw_address(Rng& rng) {
  constexpr std::array<std::string_view, 5> streets = {"Lane", "Street", "Road", "Square", "Quay"};
  constexpr std::array<std::string_view, 4> parts = {"Harbour", "Old", "Garrison", "University"};
  return fmt::format("{} {} {}, {} District, building {}, room {}, {} {}",
                     draw_between(2, 198, rng), capitalised(std::string(pick(plain_words, rng))),
                     pick(streets, rng), pick(parts, rng), draw_between(2, 19, rng),
                     draw_between(10, 99, rng), draw_number(4, rng), pick(towns, rng));
}

std::string draw_groups(Rng& rng) {
  std::vector<std::string> groups;
  const int num_groups = draw_between(3, 5, rng);
  while (std::ssize(groups) < num_groups) groups.push_back(draw_chars("0123456789", 4, rng));
  return fmt::format("{}", fmt::join(groups, " "));
}

std::string draw_watchword(Rng& rng) {
  return fmt::format("{}", fmt::join(draw_words(draw_between(12, 16, rng), rng), " "));
}

std::string draw_luggage(Rng& rng) {
  auto words = draw_words(draw_between(7, 10, rng), rng);
  const std::string last = std::move(words.back());
  words.pop_back();
  return fmt::format("{} and {}", fmt::join(words, ", "), last);
}

struct LengthyPhrasing {
  Phrasing phrasing;
  std::string (*draw)(Rng& rng);
};

constexpr std::array<LengthyPhrasing, 4> kLengthyPhrasings = {{
    {{" The full address of {0} is {1}.",
      {"What is the full address of {0}?", "At which address does {0} live? Give all of it."}},
     draw_address},
    {{" The recipe code of {0} is {1}.",
      {"What is the whole recipe code of {0}?", "Give the recipe code of {0} in full."}},
     draw_groups},
    {{" The watchword of {0} runs: {1}.",
      {"How does the watchword of {0} run?", "Give the watchword of {0} in full."}},
     draw_watchword},
    {{" For the journey, {0} packed {1}.",
      {"What did {0} pack for the journey?", "Name everything that {0} packed for the journey."}},
     draw_luggage},
}};

}  // namespace

MadeTasks parse_made_tasks(std::string_view name) {
  if (name == "numbers") return MadeTasks::numbers;
  if (name == "all") return MadeTasks::all;
  core::input_error("made tasks '{}': choose numbers or all", core::printable(name));
}

std::string TaskMaker::draw_person() {
  return draw_new(persons_, [&] {
    return fmt::format("{} {}", pick(first_names, rng_), pick(last_names, rng_));
  });
}

MadeTask TaskMaker::make(Kind kind) {
  switch (kind) {
    case Kind::numbers:
      return make_numbers();
    case Kind::pairs:
      return make_pairs();
    case Kind::lengthy:
      return make_lengthy();
    case Kind::joins:
      break;
  }
  return make_joins();
}

MadeTask TaskMaker::make_numbers() {
  MadeTask task;
  const int num_facts = draw_between(2, 8, rng_);
  if (rng_.below(2) == 0) {
    for (Fact& fact : draw_facts(num_facts, rng_)) {
      task.sentences.push_back(std::move(fact.sentence));
      task.questions.push_back({std::move(fact.question), std::move(fact.answer)});
    }
    return task;
  }
  for (int i = 0; i < num_facts; ++i) {
    const Phrasing& phrasing = pick(kNumberPhrasings, rng_);
    const std::string person = draw_person();
    std::string number = draw_number(draw_between(4, 6, rng_), rng_);
    task.sentences.push_back(filled(phrasing.sentence, person, number));
    task.questions.push_back({filled(pick(phrasing.questions, rng_), person), std::move(number)});
  }
  return task;
}

MadeTask TaskMaker::make_pairs() {
  constexpr std::array<const char*, 4> line_patterns = {"{} = {}\n", "{}: {}\n", "{} -> {}\n",
                                                        "{} | {}\n"};
  constexpr std::array<const char*, 2> list_questions = {
      "What stands beside {0} in the list of {1}?",
      "Which value does the list of {1} give for {0}?"};
  constexpr std::array<Phrasing, 3> notes = {{
      {" (Note: {0} is set to {1}.)", {"What is {0} set to?", "To which value is {0} set?"}},
      {" The entry {0} reads {1}.",
       {"What does the entry {0} read?", "How does the entry {0} read?"}},
      {" Beside {0} someone wrote {1}.",
       {"What did someone write beside {0}?", "What is written beside {0}?"}},
  }};
  MadeTask task;
  KeyDraw draw_key(rng_);
  ValueDraw draw_value(rng_);
  const bool is_list = rng_.below(2) == 0;
  const int num_pairs = is_list ? draw_between(5, 24, rng_) : draw_between(4, 10, rng_);
  const std::string owner = draw_person();
  const char* line_pattern = pick(line_patterns, rng_);
  const Phrasing& note = pick(notes, rng_);
  std::string list = fmt::format("\n\nList of {}:\n", owner);
  for (int i = 0; i < num_pairs; ++i) {
    const std::string key = draw_key();
    std::string value = draw_value();
    if (is_list) {
      list += filled(line_pattern, key, value);
      task.questions.push_back({filled(pick(list_questions, rng_), key, owner), std::move(value)});
    } else {
      task.sentences.push_back(filled(note.sentence, key, value));
      task.questions.push_back({filled(pick(note.questions, rng_), key), std::move(value)});
    }
  }
  if (is_list) task.sentences.push_back(list + "\n");
  // A few are asked for; the others are there to be mistaken for them.
  const int num_asked = draw_between(2, 4, rng_);
  while (std::ssize(task.questions) > num_asked) {
    const auto at = rng_.below(static_cast<std::uint32_t>(task.questions.size()));
    task.questions.erase(task.questions.begin() + at);
  }
  return task;
}

MadeTask TaskMaker::make_lengthy() {
  MadeTask task;
  const LengthyPhrasing& form = pick(kLengthyPhrasings, rng_);
  const int num_sentences = draw_between(2, 4, rng_);
  for (int i = 0; i < num_sentences; ++i) {
    const std::string person = draw_person();
    std::string answer = form.draw(rng_);
    task.sentences.push_back(filled(form.phrasing.sentence, person, answer));
    if (i < 3)
      task.questions.push_back(
          {filled(pick(form.phrasing.questions, rng_), person), std::move(answer)});
  }
  return task;
}

MadeTask TaskMaker::make_joins() {
  MadeTask task;
  const Join& join = pick(kJoins, rng_);
  const int num_chains = draw_between(3, 5, rng_), num_asked = draw_between(1, 3, rng_);
  std::set<std::string> ends;
  for (int i = 0; i < num_chains; ++i) {
    const std::string asked = draw_person(), between = draw_person();
    std::string end = draw_new(ends, [&] {
      return join.ends_in_town ? std::string(pick(towns, rng_)) : draw_number(4, rng_);
    });
    task.sentences.push_back(filled(join.first, asked, between));
    task.sentences.push_back(filled(join.second, between, end));
    if (i < num_asked) task.questions.push_back({filled(join.question, asked), std::move(end)});
  }
  return task;
}

}  // namespace gsa::train
