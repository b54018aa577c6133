#include "train/cloze.h"

#include <fmt/format.h>

#include <algorithm>

namespace gsa::train {
namespace {

constexpr std::string_view kBlank = "____";
constexpr std::size_t kMinName = 4, kMinWord = 6, kMaxWord = 24;  // bytes
constexpr int kMaxNameCount = 3;  // the words around tell which one is meant
constexpr int kNumTries = 8;
constexpr std::size_t kMinSide = 12;  // bytes of what tells the place

bool is_upper(char c) { return c >= 'A' && c <= 'Z'; }
bool is_lower(char c) { return c >= 'a' && c <= 'z'; }
/// Characters of several bytes count as letters.
bool is_letter(char c) {
  return is_upper(c) || is_lower(c) || static_cast<unsigned char>(c) >= 0x80;
}

/// Calls `visit` with begin and end of every run of letters.
template <typename Visit>
void for_each_word(std::string_view text, Visit visit) {
  for (std::size_t begin = 0; begin < text.size();) {
    if (!is_letter(text[begin])) {
      ++begin;
      continue;
    }
    std::size_t end = begin + 1;
    while (end < text.size() && is_letter(text[end])) ++end;
    visit(begin, end);
    begin = end;
  }
}

/// Whether only a letter or a comma and blanks stand in front, so that no sentence begins here.
bool is_within_sentence(std::string_view text, std::size_t begin) {
  if (begin < 2 || text[begin - 1] != ' ') return false;
  const char before = text[begin - 2];
  return is_lower(before) || before == ',';
}

bool is_broken(std::string_view text) { return text.find("\uFFFD") != std::string_view::npos; }

bool occurs_once(std::string_view text, std::string_view part) {
  const auto at = text.find(part);
  return at != std::string_view::npos && text.find(part, at + 1) == std::string_view::npos;
}

}  // namespace

Cloze::Cloze(const std::vector<std::string>& parts, std::string_view text)
    : parts_(parts), text_(text), words_(parts.size()) {
  for_each_word(text, [&](auto begin, auto end) { ++counts_[text.substr(begin, end - begin)]; });
  for (std::size_t p = 0; p < parts.size(); ++p) {
    const std::string_view part = parts[p];
    for_each_word(part, [&](auto begin, auto end) {
      const bool is_name = is_upper(part[begin]) && end - begin >= 2 && is_lower(part[begin + 1]) &&
                           is_within_sentence(part, begin);
      words_[p].push_back({part.substr(begin, end - begin), begin, is_name});
    });
    for (std::size_t w = 0; w < words_[p].size(); ++w) {
      const Word& word = words_[p][w];
      if (is_candidate(word)) (word.is_name ? names_ : rare_words_).push_back({p, w});
    }
  }
}

bool Cloze::is_candidate(const Word& word) const {
  const auto found = counts_.find(word.text);  // not there: cut, or a part of a longer word
  if (found == counts_.end() || word.text.size() > kMaxWord || is_broken(word.text)) return false;
  const int count = found->second;
  if (word.is_name) return word.text.size() >= kMinName && count <= kMaxNameCount;
  // As a part of a longer word it would have been read elsewhere, too.
  return word.text.size() >= kMinWord && count == 1 && std::ranges::all_of(word.text, is_lower) &&
         occurs_once(text_, word.text);
}

std::optional<MadeQuestion> Cloze::draw(core::Rng& rng) {
  for (int attempt = 0; attempt < kNumTries; ++attempt) {
    const bool takes_name = rng.below(2) == 0;
    auto& places = rare_words_.empty() || (takes_name && !names_.empty()) ? names_ : rare_words_;
    if (places.empty()) return std::nullopt;
    std::swap(places[rng.below(static_cast<std::uint32_t>(places.size()))], places.back());
    const Place place = places.back();
    places.pop_back();
    if (auto question = ask(place, rng)) {
      std::erase_if(names_, [&](const Place& other) {
        return words_[other.part][other.word].text == question->answer;
      });
      return question;
    }
  }
  return std::nullopt;
}

std::optional<MadeQuestion> Cloze::ask(const Place& place, core::Rng& rng) const {
  constexpr std::size_t min_words = 12, num_lengths = 7, min_side = 3;
  const auto& words = words_[place.part];
  const std::size_t num_words = min_words + rng.below(num_lengths);
  const std::size_t num_before = min_side + rng.below(num_words - 2 * min_side);
  const std::size_t num_behind = num_words - 1 - num_before;
  if (place.word < num_before || place.word + num_behind >= words.size()) return std::nullopt;
  const std::string_view part = parts_[place.part];
  const Word& word = words[place.word];
  const Word& last = words[place.word + num_behind];
  const std::size_t begin = words[place.word - num_before].begin;
  const std::size_t word_end = word.begin + word.text.size();
  const std::string_view before = part.substr(begin, word.begin - begin);
  const std::string_view behind = part.substr(word_end, last.begin + last.text.size() - word_end);
  for (const std::string_view side : {before, behind}) {
    if (side.find(kBlank) != std::string_view::npos || is_broken(side) ||
        side.find(word.text) != std::string_view::npos)
      return std::nullopt;
  }
  const auto tells_place = [&](std::string_view side) {
    return side.size() >= kMinSide && occurs_once(text_, side);
  };
  if (!tells_place(before) && !tells_place(behind)) return std::nullopt;
  return MadeQuestion{fmt::format("Which word is missing here? \"{}{}{}\"", before, kBlank, behind),
                      std::string(word.text)};
}

}  // namespace gsa::train
