#include "train/shard.h"

#include <algorithm>
#include <charconv>
#include <cstring>
#include <utility>

#include "core/error.h"
#include "core/utf8.h"
#include "text/sha256.h"

namespace gsa::train {
namespace {

using core::input_error;
using core::SafeTensor;
using core::SafetensorsFile;

constexpr std::string_view kFormat = "gsa-shard";
constexpr std::string_view kVersion = "1";
constexpr std::int32_t kMaxU16Vocabulary = 1 << 16;
constexpr std::size_t kShownDigits = 16;

[[noreturn]] void damaged(const SafetensorsFile& file, std::string_view problem) {
  input_error("shard: {}: {}; the file is damaged, prepare the data again", file.path().string(),
              problem);
}

[[noreturn]] void no_shard(const std::filesystem::path& path) {
  input_error("shard: {}: is no data prepared for training: make it with gsa train prepare",
              path.string());
}

SafetensorsFile open_file(const std::filesystem::path& path) {
  if (!SafetensorsFile::is_one(path)) no_shard(path);
  return SafetensorsFile::open(path);
}

template <typename T>
std::vector<T> copy_as(std::span<const std::byte> bytes) {
  std::vector<T> values(bytes.size() / sizeof(T));
  if (!values.empty()) std::memcpy(values.data(), bytes.data(), values.size() * sizeof(T));
  return values;
}

const SafeTensor& tensor_of(const SafetensorsFile& file, const std::string& name,
                            std::initializer_list<std::string_view> dtypes, std::size_t num_dims) {
  const SafeTensor* tensor = file.find_tensor(name);
  if (tensor == nullptr) damaged(file, fmt::format("tensor '{}' is missing", name));
  if (std::ranges::find(dtypes, tensor->dtype) == dtypes.end() ||
      tensor->shape.size() != num_dims) {
    damaged(file, fmt::format("tensor '{}' has dtype {} and {} dimensions", name, tensor->dtype,
                              tensor->shape.size()));
  }
  return *tensor;
}

/// The entry of the metadata; it must be there.
const std::string& entry_of(const SafetensorsFile& file, const std::string& key) {
  const auto entry = file.metadata().find(key);
  if (entry == file.metadata().end()) damaged(file, fmt::format("its metadata have no {}", key));
  return entry->second;
}

template <typename T>
T number_of(const SafetensorsFile& file, const std::string& key) {
  const std::string& text = entry_of(file, key);
  T value = 0;
  const auto [end, status] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (status != std::errc() || end != text.data() + text.size() || value < 0)
    damaged(file, fmt::format("{} '{}' is no number", key, core::printable(text)));
  return value;
}

ShardInfo read_info(const SafetensorsFile& file, DataKind kind, const text::Tokenizer& tokenizer) {
  const std::string path = file.path().string();
  const auto format = file.metadata().find("format");
  if (format == file.metadata().end() || format->second != kFormat) no_shard(file.path());
  if (entry_of(file, "format_version") != kVersion) {
    input_error("shard: {}: has format version {}, this program reads {}: prepare the data again",
                path, core::printable(entry_of(file, "format_version")), kVersion);
  }
  if (entry_of(file, "kind") != data_kind_name(kind)) {
    input_error("shard: {}: holds data of kind {}, {} is needed here", path,
                core::printable(entry_of(file, "kind")), data_kind_name(kind));
  }
  ShardInfo info;
  info.kind = kind;
  info.tokenizer = entry_of(file, "tokenizer");
  if (info.tokenizer != tokenizer.digest()) {
    input_error(
        "shard: {}: was made with the tokenizer {}, the model has {}: prepare the data with this "
        "model",
        path, core::printable(info.tokenizer.substr(0, kShownDigits)),
        tokenizer.digest().substr(0, kShownDigits));
  }
  info.seed = number_of<std::uint64_t>(file, "seed");
  info.row_len = number_of<std::int64_t>(file, "row_len");
  info.num_tokens = number_of<std::int64_t>(file, "num_tokens");
  info.sources = entry_of(file, "sources");
  info.digest = entry_of(file, "digest");
  return info;
}

void check_ids(const SafetensorsFile& file, const TokenFormat& format,
               std::span<const std::byte> tokens, const text::Tokenizer& tokenizer) {
  const auto [low, high] = format.id_range(tokens);
  if (low < 0 || high >= tokenizer.vocab_size()) {
    damaged(file, fmt::format("token {} is outside the vocabulary of {}", low < 0 ? low : high,
                              tokenizer.vocab_size()));
  }
}

}  // namespace

DataKind parse_data_kind(std::string_view name) {
  for (const DataKind kind : {DataKind::cpt, DataKind::ft})
    if (name == data_kind_name(kind)) return kind;
  input_error("data: kind '{}' is unknown: use cpt (text) or ft (questions)",
              core::printable(name));
}

std::string_view data_kind_name(DataKind kind) { return kind == DataKind::cpt ? "cpt" : "ft"; }

TokenFormat TokenFormat::for_vocabulary(std::int32_t vocab_size) {
  return TokenFormat(vocab_size <= kMaxU16Vocabulary ? "U16" : "I32");
}

TokenFormat TokenFormat::of(std::string_view dtype) {
  if (dtype != "U16" && dtype != "I32") core::internal_error("shard: no tokens of dtype {}", dtype);
  return TokenFormat(std::string(dtype));
}

std::vector<std::byte> TokenFormat::pack(std::span<const std::int32_t> ids) const {
  std::vector<std::byte> bytes(ids.size() * element_bytes());
  if (ids.empty()) return bytes;
  if (element_bytes() == 2) {
    const std::vector<std::uint16_t> narrow(ids.begin(), ids.end());
    std::memcpy(bytes.data(), narrow.data(), bytes.size());
  } else {
    std::memcpy(bytes.data(), ids.data(), bytes.size());
  }
  return bytes;
}

std::vector<std::int32_t> TokenFormat::unpack(std::span<const std::byte> bytes) const {
  if (element_bytes() == 4) return copy_as<std::int32_t>(bytes);
  const auto narrow = copy_as<std::uint16_t>(bytes);
  return {narrow.begin(), narrow.end()};
}

std::pair<std::int32_t, std::int32_t> TokenFormat::id_range(
    std::span<const std::byte> bytes) const {
  std::pair<std::int32_t, std::int32_t> range{0, -1};
  constexpr std::size_t block_bytes = std::size_t{1} << 18;
  for (std::size_t begin = 0; begin < bytes.size(); begin += block_bytes) {
    const auto ids = unpack(bytes.subspan(begin, std::min(block_bytes, bytes.size() - begin)));
    const auto [low, high] = std::ranges::minmax(ids);
    range = {begin == 0 ? low : std::min(range.first, low), std::max(range.second, high)};
  }
  return range;
}

CptShard::CptShard(SafetensorsFile file, ShardInfo info)
    : file_(std::move(file)), info_(std::move(info)), format_(TokenFormat::of("U16")) {
  const SafeTensor& tokens = tensor_of(file_, "tokens", {"U16", "I32"}, 2);
  format_ = TokenFormat::of(tokens.dtype);
  tokens_ = tokens.data;
  num_windows_ = tokens.shape[0];
  if (num_windows_ < 1 || info_.row_len < 1 || tokens.shape[1] != info_.row_len) {
    damaged(file_, fmt::format("{} windows of {} tokens are not those of its metadata",
                               num_windows_, tokens.shape[1]));
  }
}

CptShard CptShard::open(const std::filesystem::path& path, const text::Tokenizer& tokenizer) {
  SafetensorsFile file = open_file(path);
  ShardInfo info = read_info(file, DataKind::cpt, tokenizer);
  CptShard shard(std::move(file), std::move(info));
  check_ids(shard.file_, shard.format_, shard.tokens_, tokenizer);
  return shard;
}

std::vector<std::int32_t> CptShard::window(std::int64_t idx) const {
  const std::size_t window_bytes = info_.row_len * format_.element_bytes();
  return format_.unpack(tokens_.subspan(idx * window_bytes, window_bytes));
}

FtShard::FtShard(SafetensorsFile file, ShardInfo info)
    : file_(std::move(file)), info_(std::move(info)), format_(TokenFormat::of("U16")) {
  const SafeTensor& tokens = tensor_of(file_, "tokens", {"U16", "I32"}, 1);
  format_ = TokenFormat::of(tokens.dtype);
  tokens_ = tokens.data;
  offsets_ = copy_as<std::int64_t>(tensor_of(file_, "offsets", {"I64"}, 1).data);
  check_offsets(offsets_, tokens.shape[0], "offsets");
  passages_ = read_lists("passages", "passage_offsets");
  distractors_ = read_lists("distractors", "distractor_offsets");
  num_questions_ = std::ssize(passages_.offsets) - 1;
  num_passages_ = std::ssize(offsets_) - 1 - 2 * num_questions_;
  if (passages_.offsets.size() != distractors_.offsets.size() || num_questions_ < 1 ||
      num_passages_ < 1) {
    damaged(file_, "its lists do not fit together");
  }
  for (const Lists* lists : {&passages_, &distractors_}) {
    for (const std::int32_t passage : lists->values) {
      if (passage < 0 || passage >= num_passages_)
        damaged(file_, fmt::format("there is no passage {}", passage));
    }
  }
}

FtShard FtShard::open(const std::filesystem::path& path, const text::Tokenizer& tokenizer) {
  SafetensorsFile file = open_file(path);
  ShardInfo info = read_info(file, DataKind::ft, tokenizer);
  FtShard shard(std::move(file), std::move(info));
  check_ids(shard.file_, shard.format_, shard.tokens_, tokenizer);
  return shard;
}

FtShard::Lists FtShard::read_lists(const std::string& values, const std::string& offsets) const {
  Lists lists{copy_as<std::int32_t>(tensor_of(file_, values, {"I32"}, 1).data),
              copy_as<std::int64_t>(tensor_of(file_, offsets, {"I64"}, 1).data)};
  check_offsets(lists.offsets, std::ssize(lists.values), offsets);
  return lists;
}

void FtShard::check_offsets(const std::vector<std::int64_t>& offsets, std::int64_t end,
                            std::string_view name) const {
  if (offsets.empty() || offsets.front() != 0 || offsets.back() != end ||
      !std::ranges::is_sorted(offsets)) {
    damaged(file_, fmt::format("its {} do not ascend to {}", name, end));
  }
}

std::vector<std::int32_t> FtShard::text(std::int64_t idx) const {
  const std::size_t element = format_.element_bytes();
  return format_.unpack(
      tokens_.subspan(offsets_[idx] * element, (offsets_[idx + 1] - offsets_[idx]) * element));
}

std::string write_shard(const std::filesystem::path& path, ShardInfo info,
                        std::span<const core::SafeTensorParts> tensors) {
  text::Sha256 digest;
  for (const core::SafeTensorParts& tensor : tensors) {
    digest.update(tensor.name);
    for (const auto part : tensor.parts)
      digest.update({reinterpret_cast<const char*>(part.data()), part.size()});
  }
  info.digest = digest.finish();
  core::write_safetensors(path, tensors,
                          {{"format", std::string(kFormat)},
                           {"format_version", std::string(kVersion)},
                           {"kind", std::string(data_kind_name(info.kind))},
                           {"tokenizer", info.tokenizer},
                           {"seed", std::to_string(info.seed)},
                           {"row_len", std::to_string(info.row_len)},
                           {"num_tokens", std::to_string(info.num_tokens)},
                           {"sources", info.sources},
                           {"digest", info.digest}});
  return info.digest;
}

}  // namespace gsa::train
