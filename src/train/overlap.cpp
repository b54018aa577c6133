#include "train/overlap.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <string>

#include "train/permutation.h"
#include "train/text_source.h"

namespace gsa::train {
namespace {

using core::trimmed;

constexpr std::uint64_t kBase = 0x100000001B3ULL;
constexpr std::size_t kMinSlots = 1024;

/// Calls `use` with the hash of every run of `gram_len` tokens: a polynomial that rolls along.
template <typename Use>
void for_each_gram(std::span<const std::int32_t> tokens, Use use) {
  constexpr std::size_t len = EvaluationSet::gram_len;
  std::uint64_t leaving = 1;  // kBase^len
  for (std::size_t i = 0; i < len; ++i) leaving *= kBase;
  std::uint64_t sum = 0;
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    sum = sum * kBase + static_cast<std::uint64_t>(tokens[i]) + 1;
    if (i >= len) sum -= leaving * (static_cast<std::uint64_t>(tokens[i - len]) + 1);
    if (i + 1 >= len) use(mix(0, sum) | 1);  // 0 marks a free slot
  }
}

std::uint64_t text_hash(std::string_view text) {
  std::uint64_t sum = 1;
  for (const char c : trimmed(text)) sum = sum * kBase + static_cast<unsigned char>(c) + 1;
  return mix(1, sum) | 1;
}

template <typename Use>
void for_each_string(const nlohmann::json& value, Use use) {
  if (value.is_string()) {
    use(value.get_ref<const std::string&>());
  } else if (value.is_structured()) {
    for (const auto& child : value) for_each_string(child, use);
  }
}

}  // namespace

EvaluationSet::EvaluationSet(std::span<const std::filesystem::path> files,
                             const text::Tokenizer& tokenizer) {
  for (const auto& path : files) {
    const auto file = core::TextFile::open(path);
    if (file.is_json_lines()) {
      core::RecordReader reader(file);
      nlohmann::json record;
      while (reader.next(record))
        for_each_string(record, [&](const std::string& text) { add_text(text, tokenizer); });
    } else {
      DocumentReader reader(file, "");
      while (const auto block = reader.next()) add_text(block->text, tokenizer);
    }
  }
}

void EvaluationSet::add_text(std::string_view text, const text::Tokenizer& tokenizer) {
  if (trimmed(text).empty()) return;
  insert(text_hash(text));
  for_each_gram(tokenizer.encode(text), [&](std::uint64_t hash) { insert(hash); });
}

Overlap EvaluationSet::overlap(std::span<const std::int32_t> tokens) const {
  Overlap result;
  for_each_gram(tokens, [&](std::uint64_t hash) {
    ++result.num_grams;
    result.num_shared += contains(hash);
  });
  return result;
}

bool EvaluationSet::has_text(std::string_view text) const { return contains(text_hash(text)); }

void EvaluationSet::insert(std::uint64_t hash) {
  if (2 * (num_hashes_ + 1) > slots_.size()) grow();
  std::size_t slot = (hash >> 1) & (slots_.size() - 1);
  while (slots_[slot] != 0 && slots_[slot] != hash) slot = (slot + 1) & (slots_.size() - 1);
  num_hashes_ += slots_[slot] == 0;
  slots_[slot] = hash;
}

bool EvaluationSet::contains(std::uint64_t hash) const {
  if (slots_.empty()) return false;
  std::size_t slot = (hash >> 1) & (slots_.size() - 1);
  while (slots_[slot] != 0 && slots_[slot] != hash) slot = (slot + 1) & (slots_.size() - 1);
  return slots_[slot] == hash;
}

void EvaluationSet::grow() {
  std::vector<std::uint64_t> old(std::max(kMinSlots, 2 * slots_.size()));
  old.swap(slots_);
  num_hashes_ = 0;
  for (const std::uint64_t hash : old)
    if (hash != 0) insert(hash);
}

}  // namespace gsa::train
