#pragma once

#include <string>
#include <vector>

#include "core/rng.h"

namespace gsa::train {

/// A made-up fact: a sentence to put into a text, and the question that it answers.
struct Fact {
  std::string sentence;  ///< begins with a blank
  std::string question;
  std::string answer;  ///< a number of 4 to 6 digits
};

/// Facts about different names; at most 32.
std::vector<Fact> draw_facts(int count, core::Rng& rng);

}  // namespace gsa::train
