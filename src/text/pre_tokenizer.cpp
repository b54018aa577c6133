#include "text/pre_tokenizer.h"

#include <algorithm>
#include <array>

#include "core/error.h"
#include "core/utf8.h"

namespace gsa::text {
namespace {

constexpr std::string_view gpt2 =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
constexpr std::string_view llama3 =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*)"
    R"(|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view qwen2 =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*)"
    R"(|\s*[\r\n]+|\s+(?!\S)|\s+)";
// Rust's `is_numeric` of Unicode 17.
constexpr std::string_view digit = R"([\p{N}\x{11de0}-\x{11de9}\x{16ff4}-\x{16ff6}])";

constexpr std::array gpt2_names = {"gpt-2", "gpt2", "default"};
constexpr std::array smollm_names = {"smollm", "smollm2"};
constexpr std::array llama3_names = {"llama-bpe", "llama3", "llama-v3", "llama3-bpe"};
constexpr std::array qwen2_names = {"qwen2", "qwen2.5", "qwen3", "deepseek-r1-qwen"};

bool contains(const auto& names, std::string_view name) {
  return std::ranges::find(names, name) != names.end();
}

}  // namespace

std::string_view gpt2_pattern() { return gpt2; }

std::string digits_pattern(bool individual) { return std::string(digit) + (individual ? "" : "+"); }

NamedPreTokenizer pre_tokenizer_by_name(std::string_view name, std::string_view what) {
  const auto rule = [](std::string_view pattern) { return SplitRule{std::string(pattern)}; };
  if (contains(gpt2_names, name)) return {.rules = {rule(gpt2)}};
  if (contains(smollm_names, name)) return {.rules = {rule(digit), rule(gpt2)}};
  if (contains(llama3_names, name)) {
    return {.rules = {rule(llama3)}, .ignore_merges = true, .add_bos = true};
  }
  if (contains(qwen2_names, name)) return {.rules = {rule(qwen2)}, .nfc = true};
  core::input_error(
      "{}: pre-tokenizer '{}' is unknown: use a model with one of gpt-2, smollm, llama-bpe, qwen2",
      what, core::printable(name));
}

PreTokenizer::PreTokenizer(const std::vector<SplitRule>& rules, std::string_view what) {
  for (const auto& rule : rules) steps_.push_back({Regex(rule.pattern, what), rule.keep_gaps});
}

PreTokenizer::Splitter::Splitter(const PreTokenizer& pre_tokenizer)
    : pre_tokenizer_(pre_tokenizer) {
  for (const auto& step : pre_tokenizer.steps_) matchers_.emplace_back(step.regex);
}

void PreTokenizer::Splitter::split(std::string_view text,
                                   const std::function<void(std::string_view)>& emit) {
  run_step(0, text, emit);
}

void PreTokenizer::Splitter::run_step(std::size_t step_idx, std::string_view text,
                                      const std::function<void(std::string_view)>& emit) {
  if (text.empty()) return;
  if (step_idx == matchers_.size()) {
    emit(text);
    return;
  }
  const auto next_step = [&](std::size_t begin, std::size_t end) {
    run_step(step_idx + 1, text.substr(begin, end - begin), emit);
  };
  const bool keep_gaps = pre_tokenizer_.steps_[step_idx].keep_gaps;
  std::size_t done = 0;
  std::size_t from = 0;
  std::size_t begin = 0;
  std::size_t end = 0;
  while (from <= text.size() && matchers_[step_idx].find(text, from, begin, end)) {
    if (begin > done && keep_gaps) next_step(done, begin);
    next_step(begin, end);
    done = from = end;
    if (begin == end) {  // an empty match only cuts: go on behind the next character
      do ++from;
      while (from < text.size() && (text[from] & 0xc0) == 0x80);
    }
  }
  if (keep_gaps) next_step(done, text.size());
}

}  // namespace gsa::text
