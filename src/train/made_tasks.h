#pragma once

#include <cstdint>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "core/rng.h"

namespace gsa::train {

/// What rows of text are about: facts with numbers, or every kind of task below, and missing words.
enum class MadeTasks { numbers, all };

/// Input error for anything but `numbers` and `all`.
MadeTasks parse_made_tasks(std::string_view name);

struct MadeQuestion {
  std::string question;
  std::string answer;
};

/// Sentences to put into a text, and questions that they answer. A sentence begins with white space
/// and stands anywhere, also in another order.
struct MadeTask {
  std::vector<std::string> sentences;
  std::vector<MadeQuestion> questions;
};

/// Makes up the tasks of one text, each answered by what it makes up alone: no two are about the
/// same person, and the keys of a list differ. Phrasings and names are others than those of the
/// evaluation's generated tasks.
class TaskMaker {
 public:
  enum class Kind {
    numbers,  ///< 2 to 8 facts, each with a number
    pairs,    ///< keys that resemble each other, with values: a list, or sentences of their own
    lengthy,  ///< answers of a dozen words or numbers and more, which run over several chunks
    joins,    ///< two sentences each lead to an answer, among others of the same form
  };

  /// Draws from `rng`, which must outlive it.
  explicit TaskMaker(core::Rng& rng) : rng_(rng) {}

  MadeTask make(Kind kind);

 private:
  MadeTask make_numbers();
  MadeTask make_pairs();
  MadeTask make_lengthy();
  MadeTask make_joins();
  /// A name that was not drawn before.
  std::string draw_person();

  core::Rng& rng_;
  std::set<std::string> persons_;
};

}  // namespace gsa::train
