#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "eval/task.h"
#include "text/tokenizer.h"

namespace gsa::eval {

/// A task whose items are made, the same for the same seed and tokenizer.
struct GeneratedTask {
  enum class Kind {
    passkey,  ///< Mohtashami & Jaggi 2023: a number in repeated filler
    needle,   ///< sentences put into a haystack (Kamradt 2023; RULER's multi-key and multi-value)
    kv,       ///< Liu et al. 2023: the value of a key in a JSON object of random identifiers
    lines,    ///< LongEval (Li et al. 2023): the content of a line by its name
    perplexity,  ///< what follows a context of each length is predicted: see perplexity.h
  };
  Kind kind = Kind::passkey;
  std::string name = {};  ///< of the task; empty: that of its kind
  /// needle, perplexity: file of text, or of records with the field `text`
  std::string haystack = {};
  std::vector<std::int64_t> lengths = {1024, 2048, 4096};  ///< tokens of the context, at most
  std::vector<double> depths = {0, 0.25, 0.5, 0.75, 1};    ///< of the first answer, 0 to 1
  std::int64_t num_per_cell = 1;                           ///< items for each length and depth
  std::uint64_t seed = 1;
  std::int64_t num_keys = 1;    ///< needle: sentences with keys of their own, one of them asked for
  std::int64_t num_values = 1;  ///< needle: values of the key that is asked for, all to be named
  std::int64_t num_predicted = 256;  ///< perplexity: tokens that are predicted
};

/// Whether a task's name is that of a generated one: "passkey", "needle:...", ...
bool is_generated(std::string_view spec);

/// Parses KIND[:OPTION=VALUE]..., for example
/// "needle:haystack=FILE:lengths=1k,2k,4k:depths=0,25,50,75,100:n=3:seed=1". Options: name, lengths
/// (tokens, k is 1024), depths (percent), n (items per cell), seed; of a needle also haystack
/// (which it needs), keys and values; of perplexity haystack (which it needs), lengths, n (items
/// per length) and predict (tokens). Input error that names the option.
GeneratedTask parse_generated(std::string_view spec);

/// Makes the items, length by length, depth by depth; each states its length in tokens asked for
/// and its depth. Prompts and metrics are the published ones: of the kinds above, of RULER (Hsieh
/// et al. 2024) for needles. The answer stands behind the sentence, line or pair that is nearest to
/// the depth; sentences of other keys and further values stand anywhere. Input error if the
/// haystack is shorter than the longest length or a length too short for what it has to hold.
Task generate_task(const GeneratedTask& generated, const text::Tokenizer& tokenizer);

}  // namespace gsa::eval
