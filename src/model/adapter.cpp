#include "model/adapter.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/isfinite.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <optional>

#include "attention/policy.h"
#include "core/error.h"
#include "core/safetensors.h"
#include "core/utf8.h"
#include "model/weights.h"

namespace gsa::model {
namespace {

using core::input_error;

constexpr std::string_view format_name = "gsa-adapter";
constexpr std::string_view format_version = "1";
constexpr std::string_view gist_tensor_name = "gist_embeddings";
constexpr std::string_view gist_input_key = "gist_input";    // absent: row
constexpr std::string_view policy_keys_key = "policy_keys";  // absent: none
constexpr std::int64_t max_rank = 1 << 16;

std::string lora_tensor_name(std::int64_t layer, LoraTarget target, char factor) {
  return fmt::format("layers.{}.{}.lora_{}", layer, lora_target_name(target), factor);
}

std::vector<std::string_view> split(std::string_view text, char separator) {
  std::vector<std::string_view> parts;
  while (!text.empty()) {
    const std::size_t end = text.find(separator);
    parts.push_back(text.substr(0, end));
    text = end == text.npos ? std::string_view() : text.substr(end + 1);
  }
  return parts;
}

template <typename Number>
std::optional<Number> parse_number(std::string_view text) {
  Number number{};
  const auto [rest, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || rest != text.data() + text.size()) return std::nullopt;
  return number;
}

std::optional<LoraTarget> find_target(std::string_view name) {
  for (const LoraTarget target : kLoraTargets) {
    if (name == lora_target_name(target)) return target;
  }
  return std::nullopt;
}

std::optional<GistInput> find_gist_input(std::string_view name) {
  for (const GistInput input : kGistInputs) {
    if (name == gist_input_name(input)) return input;
  }
  return std::nullopt;
}

/// One adapter file; every error names it.
class Reader {
 public:
  explicit Reader(const std::filesystem::path& path) : file_(open(path)), where_(path.string()) {}

  AdapterInfo read_info() const {
    if (const auto format = metadata("format"); format != format_name) {
      input_error("adapter: {}: is no adapter file (format '{}'); give a file that gsa wrote",
                  where_, core::printable(format));
    }
    if (const auto version = metadata("format_version"); version != format_version) {
      input_error("adapter: {}: format version '{}' is not supported; version {} is", where_,
                  core::printable(version), format_version);
    }
    AdapterInfo info;
    info.name = file_.path().stem().string();
    info.base_fingerprint = metadata("base_fingerprint");
    const std::string chunk_sizes = metadata("chunk_sizes");
    for (const std::string_view sizes : split(chunk_sizes, ',')) {
      info.chunk_sizes.push_back(attention::ChunkSizes::parse(sizes));
    }
    info.recipe = metadata("recipe");
    info.data_digest = metadata("data_digest");
    if (const std::string name = metadata(gist_input_key); !name.empty()) {
      const auto input = find_gist_input(name);
      if (!input) bad_metadata(gist_input_key, name);
      info.gist_input = *input;
    }
    info.policy_keys = read_policy_keys();
    info.scores = metadata("scores");
    const std::string rank = metadata("lora_rank");
    info.lora_rank = parse_number<std::int64_t>(rank).value_or(-1);
    if (info.lora_rank < 0 || info.lora_rank > max_rank) bad_metadata("lora_rank", rank);
    const std::string alpha = metadata("lora_alpha");
    info.lora_alpha = parse_number<double>(alpha).value_or(NAN);
    if (!std::isfinite(info.lora_alpha)) bad_metadata("lora_alpha", alpha);
    const std::string targets = metadata("lora_targets");
    for (const std::string_view name : split(targets, ',')) {
      const auto target = find_target(name);
      if (!target) bad_metadata("lora_targets", name);
      info.lora_targets.push_back(*target);
    }
    return info;
  }

  void read_tensors(Adapter& adapter) const {
    for (const core::SafeTensor& tensor : file_.tensors()) {
      if (tensor.name == gist_tensor_name) {
        adapter.gist_embeddings = read(tensor);
        adapter.info.num_gist_rows = tensor.shape[0];
      } else {
        read_lora(tensor, adapter);
      }
    }
    if (!adapter.gist_embeddings.defined()) {
      input_error("adapter: {}: tensor '{}' is missing; the file is incomplete", where_,
                  gist_tensor_name);
    }
    for (const auto& [key, factors] : adapter.loras) {
      if (!factors.a.defined() || !factors.b.defined()) {
        input_error("adapter: {}: tensor '{}' is missing; the file is incomplete", where_,
                    lora_tensor_name(key.first, key.second, factors.a.defined() ? 'B' : 'A'));
      }
    }
  }

 private:
  static core::SafetensorsFile open(const std::filesystem::path& path) {
    if (!core::SafetensorsFile::is_one(path)) {
      input_error("adapter: {}: is no safetensors file; give an adapter that gsa wrote",
                  path.string());
    }
    return core::SafetensorsFile::open(path);
  }

  std::string metadata(std::string_view key) const {
    const auto entry = file_.metadata().find(std::string(key));
    return entry == file_.metadata().end() ? "" : entry->second;
  }

  [[noreturn]] void bad_metadata(std::string_view key, std::string_view value) const {
    input_error("adapter: {}: metadata '{}' is '{}', which is no valid value; the file is damaged",
                where_, key, core::printable(value));
  }

  std::string read_policy_keys() const {
    const std::string keys = metadata(policy_keys_key);
    try {
      std::string known = attention::PolicySpec::trained_keys(keys);
      if (std::ranges::count(known, '=') == std::ranges::count(keys, '=')) return known;
    } catch (const Error&) {  // speaks of a policy, not of this file
    }
    bad_metadata(policy_keys_key, keys);
  }

  /// `layers.N.TARGET.lora_A` or `lora_B`.
  void read_lora(const core::SafeTensor& tensor, Adapter& adapter) const {
    const auto parts = split(tensor.name, '.');
    const auto layer = parts.size() == 4 ? parse_number<std::int64_t>(parts[1]) : std::nullopt;
    const auto target = parts.size() == 4 ? find_target(parts[2]) : std::nullopt;
    const bool is_a = parts.size() == 4 && parts[3] == "lora_A";
    const bool is_b = parts.size() == 4 && parts[3] == "lora_B";
    if (!layer || *layer < 0 || !target || parts[0] != "layers" || !(is_a || is_b)) {
      input_error("adapter: {}: tensor '{}' is unknown; the file is damaged or of another kind",
                  where_, core::printable(tensor.name));
    }
    if (std::ranges::find(adapter.info.lora_targets, *target) == adapter.info.lora_targets.end()) {
      input_error("adapter: {}: tensor '{}' is not among lora_targets; the file is damaged", where_,
                  tensor.name);
    }
    LoraFactors& factors = adapter.loras[{*layer, *target}];
    at::Tensor& factor = is_a ? factors.a : factors.b;
    factor = read(tensor);
    if (factor.size(is_a ? 0 : 1) != adapter.info.lora_rank) {
      input_error(
          "adapter: {}: tensor '{}' does not have the rank {} of the metadata; the file is damaged",
          where_, tensor.name, adapter.info.lora_rank);
    }
  }

  /// A matrix of finite values as f32.
  at::Tensor read(const core::SafeTensor& tensor) const {
    const auto type = float_type(tensor.dtype);
    if (!type || tensor.shape.size() != 2 || tensor.data.empty()) {
      input_error(
          "adapter: {}: tensor '{}' is {} with shape [{}]; it has to be a matrix of f32, f16 or "
          "bf16",
          where_, tensor.name, tensor.dtype, fmt::join(tensor.shape, ", "));
    }
    at::Tensor out = at::empty({tensor.shape[0], tensor.shape[1]}, at::kFloat);
    core::dequantize(*type, tensor.data,
                     {out.data_ptr<float>(), static_cast<std::size_t>(out.numel())});
    if (!at::isfinite(out).all().item<bool>()) {
      input_error("adapter: {}: tensor '{}' holds values that are not finite; the file is damaged",
                  where_, tensor.name);
    }
    return out;
  }

  core::SafetensorsFile file_;
  std::string where_;
};

void check_shape(const at::Tensor& tensor, std::int64_t rows, std::int64_t cols,
                 std::string_view name) {
  if (tensor.dim() != 2 || tensor.size(0) != rows || tensor.size(1) != cols) {
    input_error(
        "adapter: tensor '{}' has shape [{}], the model needs [{}, {}]; it belongs to another "
        "model",
        name, fmt::join(tensor.sizes().vec(), ", "), rows, cols);
  }
}

std::string joined_chunk_sizes(const AdapterInfo& info) {
  std::vector<std::string> texts;
  for (const auto& sizes : info.chunk_sizes) texts.push_back(sizes.to_string());
  return fmt::format("{}", fmt::join(texts, ","));
}

std::string joined_targets(const AdapterInfo& info) {
  std::vector<std::string_view> names;
  for (const LoraTarget target : info.lora_targets) names.push_back(lora_target_name(target));
  return fmt::format("{}", fmt::join(names, ","));
}

}  // namespace

std::string_view lora_target_name(LoraTarget target) {
  switch (target) {
    case LoraTarget::q_proj:
      return "q_proj";
    case LoraTarget::k_proj:
      return "k_proj";
    case LoraTarget::v_proj:
      return "v_proj";
    case LoraTarget::o_proj:
      return "o_proj";
    case LoraTarget::gate_proj:
      return "gate_proj";
    case LoraTarget::up_proj:
      return "up_proj";
    case LoraTarget::down_proj:
      return "down_proj";
  }
  core::internal_error("adapter: unknown target {}", static_cast<int>(target));
}

std::string_view gist_input_name(GistInput input) {
  return input == GistInput::row ? "row" : "content";
}

GistInput parse_gist_input(std::string_view name) {
  if (const auto input = find_gist_input(name)) return *input;
  input_error("adapter: gists cannot start from '{}': choose row or content", name);
}

std::pair<std::int64_t, std::int64_t> lora_target_shape(const ModelConfig& config,
                                                        LoraTarget target) {
  switch (target) {
    case LoraTarget::q_proj:
      return {config.q_size(), config.hidden};
    case LoraTarget::k_proj:
    case LoraTarget::v_proj:
      return {config.kv_size(), config.hidden};
    case LoraTarget::o_proj:
      return {config.hidden, config.q_size()};
    case LoraTarget::gate_proj:
    case LoraTarget::up_proj:
      return {config.intermediate, config.hidden};
    case LoraTarget::down_proj:
      return {config.hidden, config.intermediate};
  }
  core::internal_error("adapter: unknown target {}", static_cast<int>(target));
}

Adapter Adapter::load(const std::filesystem::path& path) {
  const Reader reader(path);
  Adapter adapter;
  adapter.info = reader.read_info();
  reader.read_tensors(adapter);
  return adapter;
}

void Adapter::check_fits(const ModelConfig& config, std::string_view fingerprint) const {
  if (info.base_fingerprint != fingerprint) {
    input_error(
        "adapter: '{}' was trained on the base {}, this model is {}; use the model it belongs to",
        core::printable(info.name), core::printable(info.base_fingerprint), fingerprint);
  }
  check_shape(gist_embeddings, info.num_gist_rows, config.hidden, gist_tensor_name);
  for (const auto& [key, factors] : loras) {
    const auto [layer, target] = key;
    if (layer >= config.num_layers) {
      input_error(
          "adapter: '{}' updates layer {}, the model has {} layers; it belongs to another model",
          core::printable(info.name), layer, config.num_layers);
    }
    const auto [out, in] = lora_target_shape(config, target);
    check_shape(factors.a, info.lora_rank, in, lora_tensor_name(layer, target, 'A'));
    check_shape(factors.b, out, info.lora_rank, lora_tensor_name(layer, target, 'B'));
  }
}

void Adapter::save(const std::filesystem::path& path, at::ScalarType dtype) const {
  std::vector<at::Tensor> copies;  // keeps the bytes alive until they are written
  std::vector<core::SafeTensor> tensors;
  const auto add = [&](std::string name, const at::Tensor& tensor) {
    copies.push_back(tensor.detach().to(at::kCPU, dtype).contiguous());
    const at::Tensor& copy = copies.back();
    tensors.push_back({std::move(name),
                       std::string(safetensors_dtype(dtype)),
                       copy.sizes().vec(),
                       {static_cast<const std::byte*>(copy.const_data_ptr()), copy.nbytes()}});
  };
  add(std::string(gist_tensor_name), gist_embeddings);
  for (const auto& [key, factors] : loras) {
    add(lora_tensor_name(key.first, key.second, 'A'), factors.a);
    add(lora_tensor_name(key.first, key.second, 'B'), factors.b);
  }
  std::map<std::string, std::string> metadata = {{"format", std::string(format_name)},
                                                 {"format_version", std::string(format_version)},
                                                 {"base_fingerprint", info.base_fingerprint},
                                                 {"chunk_sizes", joined_chunk_sizes(info)},
                                                 {"lora_rank", fmt::format("{}", info.lora_rank)},
                                                 {"lora_alpha", fmt::format("{}", info.lora_alpha)},
                                                 {"lora_targets", joined_targets(info)},
                                                 {"recipe", info.recipe},
                                                 {"data_digest", info.data_digest},
                                                 {"scores", info.scores}};
  if (info.gist_input != GistInput::row)
    metadata.emplace(gist_input_key, gist_input_name(info.gist_input));
  if (!info.policy_keys.empty()) metadata.emplace(policy_keys_key, info.policy_keys);
  core::write_safetensors(path, tensors, metadata);
}

}  // namespace gsa::model
