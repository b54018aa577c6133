#pragma once

#include <stdlib.h>

#include <filesystem>
#include <stdexcept>
#include <string>
#include <vector>

namespace gsa::test {

/// Runs tests/python/`script` with the interpreter that has the test packages; throws if it fails.
/// Its output goes to the test's own.
inline void run_python(const std::string& script, const std::vector<std::filesystem::path>& args) {
  const auto quoted = [](const std::filesystem::path& word) { return " '" + word.string() + "'"; };
  std::string command =
      quoted(GSA_PYTHON) + quoted(std::filesystem::path(GSA_TEST_PYTHON_DIR) / script);
  for (const auto& arg : args) command += quoted(arg);
  if (::system(command.c_str()) != 0) throw std::runtime_error("failed:" + command);
}

}  // namespace gsa::test
