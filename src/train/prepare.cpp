#include "train/prepare.h"

#include <algorithm>
#include <atomic>
#include <charconv>
#include <cmath>
#include <exception>
#include <nlohmann/json.hpp>
#include <thread>

#include "core/error.h"
#include "core/utf8.h"
#include "train/permutation.h"
#include "train/prepare_parts.h"

namespace gsa::train {
namespace {

using core::input_error;
using Json = nlohmann::ordered_json;

/// Tokens that a limit such as 4M stands for; nothing if it is no number.
std::optional<double> parse_limit(std::string_view text) {
  if (text.empty()) return std::nullopt;
  double factor = 1;
  switch (text.back()) {
    case 'k':
    case 'K':
      factor = 1e3;
      break;
    case 'm':
    case 'M':
      factor = 1e6;
      break;
    case 'g':
    case 'G':
      factor = 1e9;
      break;
    default:
      break;
  }
  if (factor > 1) text.remove_suffix(1);
  double value = 0;
  const auto [end, status] =
      std::from_chars(text.data(), text.data() + text.size(), value, std::chars_format::fixed);
  if (status != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value * factor;
}

Json source_json(const SourceReport& source) {
  Json json = {
      {"name", source.name},      {"sha256", source.sha256},         {"items", source.num_items},
      {"kept", source.num_kept},  {"held_out", source.num_held_out}, {"tokens", source.num_tokens},
      {"dropped", source.dropped}};
  if (source.overlap.num_grams > 0) {
    json["overlap"] = {{"grams", source.overlap.num_grams},
                       {"shared", source.overlap.num_shared},
                       {"share", source.overlap.share()},
                       {"max_share", source.max_overlap}};
  }
  return json;
}

Json sources_array(const std::vector<SourceReport>& sources) {
  Json array = Json::array();
  for (const SourceReport& source : sources) array.push_back(source_json(source));
  return array;
}

std::string dump(const Json& json, int indent) {
  return json.dump(indent, ' ', false, Json::error_handler_t::replace);
}

}  // namespace

PrepareInput PrepareInput::parse(std::string_view text) {
  std::error_code ignored;
  const auto colon = text.rfind(':');
  if (colon == std::string_view::npos || std::filesystem::exists(text, ignored))
    return {std::filesystem::path(text)};
  const auto limit = parse_limit(text.substr(colon + 1));
  if (!limit) return {std::filesystem::path(text)};
  constexpr double max_limit = 1e15;
  if (!(*limit >= 1 && *limit <= max_limit)) {
    input_error("data: {}: a limit is a number of tokens from 1, such as 500k or 4M",
                core::printable(text));
  }
  return {std::filesystem::path(text.substr(0, colon)), std::llround(*limit)};
}

std::string PrepareReport::to_json() const {
  Json json = {{"kind", data_kind_name(kind)}, {"digest", digest}, {"tokens", num_tokens}};
  if (kind == DataKind::cpt) {
    json["windows"] = num_rows;
    json["held_out_windows"] = num_held_out_rows;
  } else {
    json["questions"] = num_rows;
    json["passages"] = num_passages;
  }
  json["evaluation_grams"] = num_evaluation_grams;
  json["sources"] = sources_array(sources);
  return dump(json, 2);
}

std::string PrepareReport::to_text() const {
  const bool is_cpt = kind == DataKind::cpt;
  std::string text =
      fmt::format("{} {}, {} tokens", num_rows, is_cpt ? "windows" : "questions", num_tokens);
  if (!is_cpt) text += fmt::format(", {} passages", num_passages);
  if (num_held_out_rows > 0) text += fmt::format("; {} windows held out", num_held_out_rows);
  text += '\n';
  for (const SourceReport& source : sources) {
    text += fmt::format("  {}: {} of {} {}, {} tokens", source.name, source.num_kept,
                        source.num_items, is_cpt ? "documents" : "questions", source.num_tokens);
    if (source.num_held_out > 0) text += fmt::format(", {} held out", source.num_held_out);
    for (const auto& [reason, count] : source.dropped) {
      text += fmt::format("; {} {}", count, reason);
      if (const auto line = source.first_dropped_line.find(reason);
          line != source.first_dropped_line.end())
        text += fmt::format(" (the first in line {})", line->second);
    }
    if (num_evaluation_grams > 0) {
      text += fmt::format(
          "; shares {:.3f} % of its {}-grams with the evaluation sets, no text more "
          "than {:.1f} %",
          100 * source.overlap.share(), EvaluationSet::gram_len, 100 * source.max_overlap);
    }
    text += '\n';
  }
  return text;
}

void check_options(const PrepareOptions& options) {
  if (options.inputs.empty()) input_error("data: there is no input: give a file");
  if (!(options.max_overlap >= 0 && options.max_overlap <= 1)) {
    input_error("data: the largest overlap is {}: give a share from 0 to 1", options.max_overlap);
  }
  if (options.num_threads < 1)
    input_error("data: {} threads: give a positive number", options.num_threads);
  std::vector<std::filesystem::path> read = options.exclude;
  for (const PrepareInput& input : options.inputs) read.push_back(input.path);
  for (const std::filesystem::path& path : read) {
    std::error_code ignored;
    if (std::filesystem::equivalent(path, options.out, ignored))
      input_error("data: {}: is read and written; give another --out", options.out.string());
  }
}

std::string sources_json(const std::vector<SourceReport>& sources) {
  return dump(sources_array(sources), -1);
}

void for_each_in_threads(std::size_t count, int num_threads,
                         const std::function<void(std::size_t)>& work) {
  std::atomic<std::size_t> next = 0;
  std::vector<std::exception_ptr> failures(count);
  const auto run = [&] {
    for (std::size_t i = next++; i < count; i = next++) {
      try {
        work(i);
      } catch (...) {
        failures[i] = std::current_exception();
      }
    }
  };
  {
    std::vector<std::jthread> threads;
    const std::size_t num_others = std::min<std::size_t>(num_threads, count);
    for (std::size_t i = 1; i < num_others; ++i) threads.emplace_back(run);
    run();
  }
  for (const std::exception_ptr& failure : failures)
    if (failure) std::rethrow_exception(failure);
}

void add_overlap(SourceReport& source, const Overlap& overlap) {
  source.overlap += overlap;
  source.max_overlap = std::max(source.max_overlap, overlap.share());
}

std::uint64_t seeded_below(std::uint64_t seed, std::uint64_t item, std::uint64_t size) {
  return size == 0 ? 0 : mix(seed, item) % size;
}

std::int32_t end_of_text_id(const text::Tokenizer& tokenizer) {
  for (const char* name : {"<|endoftext|>", "<|end_of_text|>"})
    if (const auto id = tokenizer.find_token(name)) return *id;
  if (tokenizer.eos_id()) return *tokenizer.eos_id();
  input_error("data: the model's vocabulary has no token that ends a text");
}

}  // namespace gsa::train
