#pragma once

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "core/gguf.h"
#include "core/rng.h"
#include "text/test_vocabularies.h"
#include "text/tokenizer.h"

namespace gsa::train::test {

/// The tokenizer of SmolLM2, from the package that the set-up installs.
inline const text::Tokenizer& tokenizer() {
  static const auto result =
      text::Tokenizer::from_gguf(core::GgufFile::open(gsa::test::find_smollm2().value()));
  return result;
}

inline void write_file(const std::filesystem::path& path, std::string_view bytes) {
  std::ofstream file(path, std::ios::binary);
  file.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  if (!file) throw std::runtime_error("cannot write " + path.string());
}

inline std::string read_file(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

inline void write_json_lines(const std::filesystem::path& path,
                             const std::vector<nlohmann::json>& records) {
  std::string lines;
  for (const auto& record : records) lines += record.dump() + "\n";
  write_file(path, lines);
}

/// Words, marks, lines and some characters of several bytes.
inline std::string random_text(std::int64_t num_words, std::uint64_t seed) {
  static const std::vector<std::string> syllables = {"ta", "ri", "mo",  "ne", "su", "lk",
                                                     "är", "ph", "ing", "ou", "日", "ver"};
  core::Rng rng(seed);
  std::string text;
  for (std::int64_t i = 0; i < num_words; ++i) {
    if (i > 0) text += rng.below(12) == 0 ? "\n" : " ";
    for (std::uint32_t left = 1 + rng.below(3); left > 0; --left)
      text += syllables[rng.below(static_cast<std::uint32_t>(syllables.size()))];
    if (rng.below(8) == 0) text += std::string_view(".,;!?").substr(rng.below(5), 1);
  }
  return text;
}

}  // namespace gsa::train::test
