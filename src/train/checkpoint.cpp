#include "train/checkpoint.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/from_blob.h>
#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <charconv>
#include <cstring>
#include <functional>
#include <map>
#include <span>
#include <sstream>

#include "core/error.h"
#include "core/log.h"
#include "core/safetensors.h"
#include "core/utf8.h"
#include "gsa/error.h"

namespace gsa::train {
namespace {

constexpr std::string_view kFormat = "gsa-checkpoint";
constexpr std::string_view kPrefix = "step-", kEnding = ".safetensors";
constexpr std::string_view kPartialEnding = ".tmp";  // of a file that is being written
constexpr std::size_t kNumKept = 2;

/// A fast 64-bit hash that notices damaged bytes; no defence against intent.
class Checksum {
 public:
  void update(std::span<const std::byte> bytes) {
    while (!bytes.empty()) {
      std::uint64_t word = 0;
      const std::size_t len = std::min(bytes.size(), sizeof word);
      std::memcpy(&word, bytes.data(), len);
      hash_ = std::rotl((hash_ ^ word) * 0x9E3779B97F4A7C15ULL, 29);
      bytes = bytes.subspan(len);
    }
  }
  std::string text() const { return fmt::format("{:016x}", hash_); }

 private:
  std::uint64_t hash_ = 0x243F6A8885A308D3ULL;
};

using Metadata = std::map<std::string, std::string>;

/// Of everything in a file but the checksum itself, in the order of names.
std::string checksum_of(std::vector<core::SafeTensor> tensors, const Metadata& metadata) {
  Checksum checksum;
  for (const auto& [key, value] : metadata) {
    if (key == "checksum") continue;
    const std::string entry = key + "=" + value;
    checksum.update(std::as_bytes(std::span(entry)));
  }
  std::ranges::sort(tensors, {}, &core::SafeTensor::name);
  for (const core::SafeTensor& tensor : tensors) {
    checksum.update(std::as_bytes(std::span(tensor.name)));
    checksum.update(tensor.data);
  }
  return checksum.text();
}

const std::string& entry_of(const Metadata& metadata, const std::string& key) {
  const auto entry = metadata.find(key);
  if (entry == metadata.end()) core::input_error("metadata '{}' is missing", key);
  return entry->second;
}

template <typename Number>
Number number(const Metadata& metadata, const std::string& key) {
  const std::string& digits = entry_of(metadata, key);
  const char* const end = digits.data() + digits.size();
  Number value{};
  const auto [rest, status] = std::from_chars(digits.data(), end, value);
  if (status == std::errc() && rest == end) return value;
  core::input_error("metadata '{}' is no number", key);
}

Metadata to_metadata(const RunState& state) {
  return {{"step", fmt::format("{}", state.step)},
          {"next_row", fmt::format("{}", state.next_row)},
          {"num_tokens", fmt::format("{}", state.num_tokens)},
          {"num_raw", fmt::format("{}", state.num_raw)},
          {"seconds", fmt::format("{}", state.seconds)},
          {"mean_loss", fmt::format("{}", state.mean_loss)}};
}

RunState to_state(const Metadata& metadata) {
  return {.step = number<std::int64_t>(metadata, "step"),
          .next_row = number<std::int64_t>(metadata, "next_row"),
          .num_tokens = number<std::int64_t>(metadata, "num_tokens"),
          .num_raw = number<std::int64_t>(metadata, "num_raw"),
          .seconds = number<double>(metadata, "seconds"),
          .mean_loss = number<double>(metadata, "mean_loss")};
}

/// Input error, without the path, if the file is damaged.
void check_whole(const core::SafetensorsFile& file) {
  if (entry_of(file.metadata(), "format") != kFormat)
    core::input_error("it is no checkpoint of gsa");
  if (entry_of(file.metadata(), "checksum") != checksum_of(file.tensors(), file.metadata()))
    core::input_error("its checksum is wrong");
}

/// Input error that shows the first words in which two recipes differ.
void check_recipe(const std::filesystem::path& path, const std::string& theirs,
                  const std::string& ours) {
  if (theirs == ours) return;
  std::istringstream their_words(theirs), our_words(ours);
  std::string their_word, our_word;
  do {
    their_word.clear(), our_word.clear();
    their_words >> their_word;
    our_words >> our_word;
  } while (their_word == our_word && !our_word.empty());
  core::input_error(
      "train: checkpoint {} was made with '{}', this run has '{}'; give the same options and data, "
      "or another --out",
      path.string(), core::printable(their_word), our_word);
}

void fill(const core::SafetensorsFile& file, const NamedTensors& tensors) {
  for (const auto& [name, tensor] : tensors) {
    const core::SafeTensor* stored = file.find_tensor(name);
    if (stored == nullptr || stored->dtype != "F32" || stored->shape != tensor.sizes().vec()) {
      core::input_error("train: checkpoint {} does not fit the model: tensor '{}'",
                        file.path().string(), name);
    }
  }
  const at::NoGradGuard no_grad;
  for (const auto& [name, tensor] : tensors) {
    const auto data = file.tensor(name).data;  // may begin at any address
    std::vector<float> values(data.size() / sizeof(float));
    std::memcpy(values.data(), data.data(), data.size());
    tensor.copy_(at::from_blob(values.data(), tensor.sizes(), at::kFloat));
  }
}

}  // namespace

std::vector<std::filesystem::path> Checkpoints::files(std::string_view ending) const {
  std::vector<std::filesystem::path> found;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(folder_, error)) {
    const std::string name = entry.path().filename().string();
    if (name.starts_with(kPrefix) && name.ends_with(ending)) found.push_back(entry.path());
  }
  std::ranges::sort(found, std::greater<>());  // steps have leading zeros
  return found;
}

bool Checkpoints::any() const { return !files(kEnding).empty(); }

void Checkpoints::save(const RunState& state, const NamedTensors& tensors) const {
  std::error_code error;
  std::filesystem::create_directories(folder_, error);
  if (error) core::resource_error("train: {}: {}", folder_.string(), error.message());
  std::vector<at::Tensor> copies;  // keep the bytes alive until they are written
  std::vector<core::SafeTensor> stored;
  for (const auto& [name, tensor] : tensors) {
    const at::Tensor& copy = copies.emplace_back(tensor.detach().to(at::kCPU).contiguous());
    stored.push_back({name,
                      "F32",
                      copy.sizes().vec(),
                      {static_cast<const std::byte*>(copy.const_data_ptr()), copy.nbytes()}});
  }
  Metadata metadata = to_metadata(state);
  metadata["format"] = kFormat;
  metadata["recipe"] = recipe_;
  metadata["checksum"] = checksum_of(stored, metadata);
  core::write_safetensors(folder_ / fmt::format("{}{:010}{}", kPrefix, state.step, kEnding), stored,
                          metadata);
  const auto all = files(kEnding);
  for (std::size_t i = kNumKept; i < all.size(); ++i) std::filesystem::remove(all[i], error);
  // What a process that was killed left half written would stay for ever.
  for (const auto& path : files(kPartialEnding)) std::filesystem::remove(path, error);
}

std::optional<RunState> Checkpoints::restore(const NamedTensors& tensors) const {
  const auto all = files(kEnding);
  for (const auto& path : all) {
    try {
      const auto file = core::SafetensorsFile::open(path);
      check_whole(file);
      const RunState state = to_state(file.metadata());
      check_recipe(path, entry_of(file.metadata(), "recipe"), recipe_);
      fill(file, tensors);
      return state;
    } catch (const Error& error) {
      if (std::string_view(error.what()).starts_with("train: ")) throw;
      core::log_warning(
          fmt::format("checkpoint {} is damaged and left aside: {}", path.string(), error.what()));
    }
  }
  if (all.empty()) return std::nullopt;
  core::input_error("train: no checkpoint in {} is whole; start anew with another --out",
                    folder_.string());
}

}  // namespace gsa::train
