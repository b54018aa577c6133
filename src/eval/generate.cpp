#include "eval/generate.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>

#include "core/error.h"
#include "core/json.h"
#include "core/rng.h"
#include "core/text_file.h"
#include "core/utf8.h"
#include "eval/generate_names.h"
#include "eval/perplexity.h"

namespace gsa::eval {
namespace {

using core::Rng;
using Kind = GeneratedTask::Kind;

/// Where an item's answer is to stand.
struct Cell {
  std::int64_t length;
  double depth;
};

/// A text with the question about it.
struct Puzzle {
  std::string document;
  std::string question;
  std::vector<std::string> answers;
};

std::int64_t count(const text::Tokenizer& tokenizer, const std::string& text) {
  return std::ssize(tokenizer.encode(text));
}

/// The largest number of parts, at most `limit`, with which a text has at most `length` tokens; 0
/// if one is too many. More parts are more tokens.
std::int64_t fit(std::int64_t limit, std::int64_t length, const text::Tokenizer& tokenizer,
                 const std::function<std::string(std::int64_t)>& make) {
  std::int64_t low = 0;
  for (std::int64_t high = limit; low < high;) {
    const std::int64_t middle = low + (high - low + 1) / 2;
    if (count(tokenizer, make(middle)) <= length) {
      low = middle;
    } else {
      high = middle - 1;
    }
  }
  return low;
}

std::int64_t place(double depth, std::int64_t num_places) {
  return std::llround(depth * static_cast<double>(num_places - 1));
}

[[noreturn]] void refuse_length(const Cell& cell, std::string_view what) {
  core::input_error("task: a length of {} tokens is too short for {}: give longer lengths",
                    cell.length, what);
}

std::string number_of_digits(Rng& rng, int num_digits) {
  std::string digits(1, static_cast<char>('1' + rng.below(9)));
  while (std::ssize(digits) < num_digits) digits += static_cast<char>('0' + rng.below(10));
  return digits;
}

std::string random_name(Rng& rng) {
  return std::string(name_adjectives[rng.below(name_adjectives.size())])
      .append("-")
      .append(name_nouns[rng.below(name_nouns.size())]);
}

/// Something random that was not drawn before.
template <typename Draw>
std::string draw_new(std::set<std::string>& drawn, Draw draw) {
  while (true) {
    const auto [made, is_new] = drawn.insert(draw());
    if (is_new) return *made;
  }
}

/// A random identifier of version 4 (RFC 4122).
std::string random_uuid(Rng& rng) {
  constexpr std::string_view digits = "0123456789abcdef";
  std::string uuid = "xxxxxxxx-xxxx-4xxx-yxxx-xxxxxxxxxxxx";
  for (char& c : uuid) {
    if (c == 'x') c = digits[rng.below(16)];
    if (c == 'y') c = digits[8 + rng.below(4)];
  }
  return uuid;
}

std::string repeat(std::string_view unit, std::int64_t times) {
  std::string text;
  for (std::int64_t i = 0; i < times; ++i) text.append(i == 0 ? "" : " ").append(unit);
  return text;
}

Puzzle make_passkey(const Cell& cell, Rng& rng, const text::Tokenizer& tokenizer) {
  constexpr std::string_view filler =
      "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again.";
  constexpr std::int64_t min_filler_tokens = 10;
  const std::string key = std::to_string(1 + rng.below(50000));
  const auto make = [&](std::int64_t num_units) {
    const std::int64_t num_before = place(cell.depth, num_units + 1);
    return repeat(filler, num_before)
        .append(num_before == 0 ? "" : "\n")
        .append("The pass key is " + key + ". Remember it. " + key + " is the pass key.")
        .append(num_before == num_units ? "" : "\n")
        .append(repeat(filler, num_units - num_before));
  };
  const std::int64_t num_units = fit(cell.length / min_filler_tokens, cell.length, tokenizer, make);
  if (num_units == 0) refuse_length(cell, "a pass key between filler");
  return {make(num_units), "What is the pass key? The pass key is", {key}};
}

Puzzle make_kv(const Cell& cell, Rng& rng, const text::Tokenizer& tokenizer) {
  std::vector<std::pair<std::string, std::string>> pairs;
  std::set<std::string> keys;
  const auto make = [&](std::int64_t num_pairs) {
    while (std::ssize(pairs) < num_pairs)
      pairs.emplace_back(draw_new(keys, [&] { return random_uuid(rng); }), random_uuid(rng));
    std::string object;
    for (const auto& [key, value] : std::span(pairs).first(num_pairs))
      object.append(object.empty() ? "{" : ",\n ").append("\"" + key + "\": \"" + value + "\"");
    return object + "}";
  };
  constexpr std::int64_t min_pair_tokens = 16;  // of two identifiers, whatever the tokenizer
  const std::int64_t num_pairs = fit(cell.length / min_pair_tokens, cell.length, tokenizer, make);
  if (num_pairs < 2) refuse_length(cell, "two keys with their values");
  const auto& [key, value] = pairs[place(cell.depth, num_pairs)];
  return {make(num_pairs), key, {value}};
}

Puzzle make_lines(const Cell& cell, Rng& rng, const text::Tokenizer& tokenizer) {
  constexpr std::int64_t max_lines = name_adjectives.size() * name_nouns.size() / 2;
  constexpr std::int64_t min_line_tokens = 8;
  std::vector<std::pair<std::string, std::string>> lines;
  std::set<std::string> names;
  const auto make = [&](std::int64_t num_lines) {
    while (std::ssize(lines) < num_lines)
      lines.emplace_back(draw_new(names, [&] { return random_name(rng); }),
                         std::to_string(1 + rng.below(50000)));
    std::string text;
    for (const auto& [name, number] : std::span(lines).first(num_lines))
      text += "line " + name + ": REGISTER_CONTENT is <" + number + ">\n";
    return text;
  };
  const std::int64_t limit = std::min(cell.length / min_line_tokens, max_lines);
  const std::int64_t num_lines = fit(limit, cell.length, tokenizer, make);
  if (num_lines < 2) refuse_length(cell, "two lines");
  if (num_lines == max_lines) {
    core::input_error("task: {} tokens are more than {} lines with names of their own: give less",
                      cell.length, max_lines);
  }
  const auto& [name, number] = lines[place(cell.depth, num_lines)];
  return {make(num_lines), name, {number}};
}

/// The text of a haystack's file: of records their texts, one behind the other.
std::string read_haystack(const std::string& path) {
  const auto file = core::TextFile::open(path);
  std::string text;
  if (file.is_json_lines()) {
    core::RecordReader records(file);
    for (nlohmann::json record; records.next(record);) {
      const auto part = core::find_string(record, "text", records.where());
      if (!part) core::input_error("task: {}: has no field 'text'", records.where());
      text.append(text.empty() ? "" : "\n\n").append(*part);
    }
    return core::decode_document(text, path);
  }
  const auto source = file.open_source();
  std::string block(1 << 20, '\0');
  while (const std::size_t num_read = source->read(block)) text.append(block, 0, num_read);
  return core::decode_document(text, path);
}

/// A haystack and the places between its sentences, which begin and end count as.
class Haystack {
 public:
  explicit Haystack(std::string text) : text_(std::move(text)) {
    borders_.push_back(0);
    for (std::size_t i = 1; i + 1 < text_.size(); ++i) {
      const bool is_end = text_[i - 1] == '.' || text_[i - 1] == '!' || text_[i - 1] == '?';
      const bool is_border = is_end && (text_[i] == ' ' || text_[i] == '\n');
      if (is_border || (text_[i - 1] == '\n' && text_[i] == '\n')) borders_.push_back(i + 1);
    }
    borders_.push_back(text_.size());
  }

  /// The longest run of whole sentences from the `first` one on with at most `length` tokens; empty
  /// if the haystack ends before that.
  std::vector<std::string_view> take(std::size_t first, std::int64_t length,
                                     const text::Tokenizer& tokenizer) const {
    const auto run = [&](std::int64_t num_sentences) {
      const std::size_t begin = borders_[first];
      return text_.substr(begin, borders_[first + num_sentences] - begin);
    };
    const auto limit = static_cast<std::int64_t>(borders_.size() - 1 - first);
    // A token has rarely more than eight bytes: the search need not look at more text than that.
    const auto far = std::ranges::lower_bound(borders_, borders_[first] + 16 * length);
    const std::int64_t near =
        std::min(limit, far - borders_.begin() - static_cast<std::int64_t>(first));
    const std::int64_t num_sentences = fit(near, length, tokenizer, run);
    if (num_sentences == limit) return {};
    std::vector<std::string_view> sentences;
    for (std::size_t i = first; i < first + num_sentences; ++i)
      sentences.push_back(
          std::string_view(text_).substr(borders_[i], borders_[i + 1] - borders_[i]));
    return sentences;
  }

  std::size_t num_sentences() const { return borders_.size() - 1; }

 private:
  std::string text_;
  std::vector<std::size_t> borders_;
};

/// The sentences of a needle task, that of the answer (or its first value) in front.
struct Needles {
  std::string key;
  std::vector<std::string> values;
  std::vector<std::string> sentences;
};

Needles make_needles(const GeneratedTask& task, Rng& rng) {
  std::set<std::string> keys, values;
  Needles needles;
  const auto add = [&](const std::string& key, const std::string& value) {
    needles.sentences.push_back("One of the special magic numbers for " + key + " is: " + value +
                                ". ");
  };
  const auto new_key = [&] { return draw_new(keys, [&] { return random_name(rng); }); };
  const auto new_value = [&] { return draw_new(values, [&] { return number_of_digits(rng, 7); }); };
  needles.key = new_key();
  for (std::int64_t i = 0; i < task.num_values; ++i) {
    needles.values.push_back(new_value());
    add(needles.key, needles.values.back());
  }
  for (std::int64_t i = 1; i < task.num_keys; ++i) add(new_key(), new_value());
  return needles;
}

Puzzle make_needle(const GeneratedTask& task, const Cell& cell, Rng& rng, const Haystack& haystack,
                   const text::Tokenizer& tokenizer) {
  Needles needles = make_needles(task, rng);
  std::int64_t num_left = cell.length;
  for (const std::string& sentence : needles.sentences) num_left -= count(tokenizer, sentence) + 1;
  if (num_left < 1) refuse_length(cell, "its needles");
  std::vector<std::string_view> sentences;
  // Items begin in different places of the haystack where it is long enough.
  for (auto bound = static_cast<std::uint32_t>(haystack.num_sentences());
       sentences.empty() && bound > 0; bound /= 2)
    sentences = haystack.take(rng.below(bound), num_left, tokenizer);
  if (sentences.empty()) {
    core::input_error(
        "task: {}: the haystack is shorter than {} tokens, or has no sentences: give "
        "a longer text or shorter lengths",
        task.haystack, cell.length);
  }
  const std::int64_t num_places = std::ssize(sentences) + 1;
  std::vector<std::pair<std::int64_t, std::string_view>> placed;
  for (std::size_t i = 0; i < needles.sentences.size(); ++i) {
    const std::int64_t at =
        i == 0 ? place(cell.depth, num_places) : rng.below(static_cast<std::uint32_t>(num_places));
    placed.emplace_back(at, needles.sentences[i]);
  }
  Puzzle puzzle{"", needles.key, std::move(needles.values)};
  for (std::int64_t i = 0; i < num_places; ++i) {
    for (const auto& [at, needle] : placed)
      if (at == i) puzzle.document += needle;
    if (i + 1 < num_places) puzzle.document += sentences[i];
  }
  return puzzle;
}

TaskFormat format_of(const GeneratedTask& task) {
  const auto make = [](std::string_view before, std::string_view after, Metric metric,
                       std::int64_t max_tokens) {
    TaskFormat format;
    format.prompt = make_prompt(before, after, "generated");
    format.metric = metric;
    format.max_tokens = max_tokens;
    format.first_line = false;
    return format;
  };
  switch (task.kind) {
    case Kind::passkey:
      return make(
          "There is an important info hidden inside a lot of irrelevant text. Find it and memorize "
          "them. I will quiz you about the important information there.\n",
          "\n{input}", Metric::found, 32);
    case Kind::kv:
      return make(
          "Extract the value corresponding to the specified key in the JSON object below.\n\nJSON "
          "data:\n",
          "\n\nKey: \"{input}\"\nCorresponding value:", Metric::found, 100);
    case Kind::lines:
      return make(
          "Below is a record of lines I want you to remember. Each line begins with 'line <line "
          "index>' and contains a '<REGISTER_CONTENT>' at the end of the line as a numerical "
          "value. "
          "For each line index, memorize its corresponding <REGISTER_CONTENT>. At the end of the "
          "record, I will ask you to retrieve the corresponding <REGISTER_CONTENT> of a certain "
          "line "
          "index. Now the record start:\n\n",
          "\nNow the record is over. Tell me what is the <REGISTER_CONTENT> in line {input}? I "
          "need "
          "the number.",
          Metric::last_number, 100);
    case Kind::needle:
    case Kind::perplexity:  // has a format of its own
      break;
  }
  if (task.num_values == 1) {
    return make(
        "A special magic number is hidden within the following text. Make sure to memorize it. I "
        "will quiz you about the number afterwards.\n",
        "\nWhat is the special magic number for {input} mentioned in the provided text?",
        Metric::found, 128);
  }
  return make(
      "Some special magic numbers are hidden within the following text. Make sure to memorize it. "
      "I "
      "will quiz you about the numbers afterwards.\n",
      "\nWhat are all the special magic numbers for {input} mentioned in the provided text?",
      Metric::found, 128);
}

std::string name_of(const GeneratedTask& task) {
  switch (task.kind) {
    case Kind::passkey:
      return "passkey";
    case Kind::kv:
      return "kv";
    case Kind::lines:
      return "lines";
    case Kind::perplexity:
      return kPerplexityName;
    case Kind::needle:
      break;
  }
  std::string name = "needle";
  if (task.num_keys > 1) name += fmt::format("-{}keys", task.num_keys);
  if (task.num_values > 1) name += fmt::format("-{}values", task.num_values);
  return name;
}

}  // namespace

Task generate_task(const GeneratedTask& task, const text::Tokenizer& tokenizer) {
  if (task.kind == Kind::perplexity) {
    return make_perplexity_task({.name = task.name.empty() ? name_of(task) : task.name,
                                 .lengths = task.lengths,
                                 .num_predicted = task.num_predicted,
                                 .num_per_length = task.num_per_cell},
                                read_haystack(task.haystack), task.haystack, tokenizer);
  }
  const Haystack haystack(task.kind == Kind::needle ? read_haystack(task.haystack) : "");
  Task result{task.name.empty() ? name_of(task) : task.name, format_of(task), {}};
  result.format.name = name_of(task);
  const auto make = [&](const Cell& cell, Rng& rng) {
    if (task.kind == Kind::needle) return make_needle(task, cell, rng, haystack, tokenizer);
    if (task.kind == Kind::kv) return make_kv(cell, rng, tokenizer);
    return task.kind == Kind::lines ? make_lines(cell, rng, tokenizer)
                                    : make_passkey(cell, rng, tokenizer);
  };
  for (const std::int64_t length : task.lengths) {
    for (const double depth : task.depths) {
      for (std::int64_t i = 0; i < task.num_per_cell; ++i) {
        Rng rng(task.seed, result.items.size());
        Puzzle puzzle = make({length, depth}, rng);
        result.items.push_back({.id = fmt::format("{}-{:.0f}-{}", length, 100 * depth, i),
                                .documents = {std::move(puzzle.document)},
                                .question = std::move(puzzle.question),
                                .answers = std::move(puzzle.answers),
                                .length = length,
                                .depth = depth});
      }
    }
  }
  return result;
}

}  // namespace gsa::eval
