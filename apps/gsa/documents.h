#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace gsa::apps {

/// Reads text files, `-` being standard input (once), as valid UTF-8. Input error that names the
/// file for one that is missing, empty, a directory or in UTF-16 or UTF-32; ill-formed bytes are
/// replaced with a warning.
std::vector<std::string> read_documents(const std::vector<std::string>& paths);

/// A text from the command line as valid UTF-8; `what` names it in the warning.
std::string valid_argument(std::string_view text, std::string_view what);

}  // namespace gsa::apps
