#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "text/regex.h"

namespace gsa::text {

/// One step of a pre-tokenizer: every match of the pattern becomes a piece of its own, and so does
/// what stands between matches.
struct SplitRule {
  std::string pattern;
  bool keep_gaps = true;  ///< false drops what stands between matches
};

/// Steps of the pre-tokenizers that GGUF files only name (`tokenizer.ggml.pre`). Input error, with
/// `what` in front, for an unknown name.
struct NamedPreTokenizer {
  std::vector<SplitRule> rules;
  bool nfc = false;            ///< the text is normalised first
  bool ignore_merges = false;  ///< a piece that is a token is not split further
  bool add_bos = false;        ///< unless the file says otherwise
};
NamedPreTokenizer pre_tokenizer_by_name(std::string_view name, std::string_view what);

/// GPT-2's pattern, which the `ByteLevel` step of tokenizer.json stands for.
std::string_view gpt2_pattern();
/// The pattern of the `Digits` step: one digit, or a run of them.
std::string digits_pattern(bool individual);

/// Cuts text into the pieces that byte pairs are merged within.
class PreTokenizer {
 public:
  PreTokenizer() = default;
  PreTokenizer(const std::vector<SplitRule>& rules, std::string_view what);

  /// Working memory of one thread.
  class Splitter {
   public:
    explicit Splitter(const PreTokenizer& pre_tokenizer);

    /// Hands every piece of valid UTF-8 to `emit`, in order; none is empty.
    void split(std::string_view text, const std::function<void(std::string_view)>& emit);

   private:
    void run_step(std::size_t step_idx, std::string_view text,
                  const std::function<void(std::string_view)>& emit);

    const PreTokenizer& pre_tokenizer_;
    std::vector<Regex::Matcher> matchers_;
  };

 private:
  struct Step {
    Regex regex;
    bool keep_gaps;
  };
  std::vector<Step> steps_;
};

}  // namespace gsa::text
