#include "documents.h"

#include <algorithm>
#include <filesystem>
#include <iostream>
#include <system_error>

#include "core/error.h"
#include "core/file.h"
#include "core/log.h"
#include "core/utf8.h"

namespace gsa::apps {
namespace {

constexpr std::string_view standard_input = "-";

std::string read_document(const std::string& path) {
  const bool is_stdin = path == standard_input;
  const std::string name = is_stdin ? "standard input" : path;
  std::error_code error;
  if (!is_stdin && !std::filesystem::exists(path, error) && !error)
    core::input_error("document: {}: no such file: check the path", path);
  const std::string bytes = is_stdin ? core::read_stream(std::cin, name) : core::read_file(path);
  std::string text = core::decode_document(bytes, name);
  if (text.empty()) core::input_error("document: {}: it is empty: give a text", name);
  return text;
}

}  // namespace

std::vector<std::string> read_documents(const std::vector<std::string>& paths) {
  if (std::count(paths.begin(), paths.end(), standard_input) > 1)
    core::input_error("document: -: standard input can be read once only");
  std::vector<std::string> documents;
  for (const std::string& path : paths) documents.push_back(read_document(path));
  return documents;
}

std::string valid_argument(std::string_view text, std::string_view what) {
  core::DecodedText decoded = core::decode_utf8(text);
  if (decoded.num_replaced > 0) {
    core::log_warning(
        fmt::format("{}: not UTF-8 at byte {}: replaced", what, decoded.first_bad_offset));
  }
  return std::move(decoded.text);
}

}  // namespace gsa::apps
