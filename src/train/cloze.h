#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "core/rng.h"
#include "train/made_tasks.h"

namespace gsa::train {

/// Questions for a rare word of a text by the words around it: a name, or a word that stands in it
/// once.
class Cloze {
 public:
  /// `parts` are what is quoted from, `text` is all that the reader sees. Both must outlive it.
  Cloze(const std::vector<std::string>& parts, std::string_view text);

  /// A question for another word every time; none if the text has no such word. The words in front
  /// of the missing one, or those behind it, stand in the text once.
  std::optional<MadeQuestion> draw(core::Rng& rng);

 private:
  struct Word {
    std::string_view text;
    std::size_t begin = 0;  // in its part
    bool is_name = false;   // has a capital that begins no sentence
  };
  struct Place {
    std::size_t part, word;
  };

  bool is_candidate(const Word& word) const;
  std::optional<MadeQuestion> ask(const Place& place, core::Rng& rng) const;

  const std::vector<std::string>& parts_;
  std::string_view text_;
  std::vector<std::vector<Word>> words_;  // of each part
  std::unordered_map<std::string_view, int> counts_;
  std::vector<Place> names_, rare_words_;
};

}  // namespace gsa::train
