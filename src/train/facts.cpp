#include "train/facts.h"

#include <fmt/format.h>

#include <array>
#include <string_view>
#include <utility>

#include "train/phrasing.h"

namespace gsa::train {
namespace {

constexpr std::array<std::string_view, 32> kNames = {
    "Albatross", "Beacon",  "Bramble", "Canyon",  "Cobalt",  "Corvus",   "Dahlia",  "Dover",
    "Eclipse",   "Everest", "Falcon",  "Fresco",  "Glacier", "Gondola",  "Halcyon", "Heron",
    "Ivory",     "Jasper",  "Kodiak",  "Lantern", "Maple",   "Meridian", "Monsoon", "Nutmeg",
    "Onyx",      "Pelican", "Quartz",  "Rowan",   "Saffron", "Tundra",   "Umber",   "Willow"};

constexpr std::array<Phrasing, 5> kPhrasings = {{
    {" The code for {0} is {1}.", {"What is the code for {0}?", "Which code does {0} have?"}},
    {" Remember that the secret number of {0} is {1}.",
     {"What is the secret number of {0}?", "Which secret number belongs to {0}?"}},
    {" The number of the locker {0} is {1}. Do not forget it.",
     {"What is the number of the locker {0}?", "Which number has the locker {0}?"}},
    {" To open the door {0}, one enters {1}.",
     {"What does one enter to open the door {0}?", "Which number opens the door {0}?"}},
    {" {0} is registered under the number {1}.",
     {"Under which number is {0} registered?", "What is the registered number of {0}?"}},
}};

std::string draw_number(core::Rng& rng) {
  constexpr std::uint32_t min_digits = 4, num_lengths = 3;
  std::string number;
  for (std::uint32_t left = min_digits + rng.below(num_lengths); left > 0; --left)
    number += static_cast<char>('0' + rng.below(10));
  return number;
}

}  // namespace

std::vector<Fact> draw_facts(int count, core::Rng& rng) {
  std::array<std::string_view, kNames.size()> names = kNames;
  std::vector<Fact> facts;
  for (std::size_t i = 0; i < names.size() && std::ssize(facts) < count; ++i) {
    std::swap(names[i], names[i + rng.below(static_cast<std::uint32_t>(names.size() - i))]);
    const Phrasing& phrasing = kPhrasings[rng.below(kPhrasings.size())];
    const char* question = phrasing.questions[rng.below(2)];
    Fact fact;
    fact.answer = draw_number(rng);
    fact.sentence = fmt::format(fmt::runtime(phrasing.sentence), names[i], fact.answer);
    fact.question = fmt::format(fmt::runtime(question), names[i]);
    facts.push_back(std::move(fact));
  }
  return facts;
}

}  // namespace gsa::train
