#include "model/merge.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/empty.h>
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "core/error.h"
#include "core/file.h"
#include "core/gguf.h"
#include "core/json.h"
#include "core/safetensors.h"
#include "model/weights.h"
#include "text/sha256.h"

namespace gsa::model {
namespace {

namespace fs = std::filesystem;

/// The weights of a model under their Hugging Face names, updates folded in.
class MergedWeights {
 public:
  explicit MergedWeights(const Model& model) : config_(model.config()) {
    for (auto& [name, tensor] : model.named_tensors()) tensors_.emplace(name, tensor);
    if (model.adapter() != nullptr) scale_ = model.adapter()->lora_scale();
  }

  /// f32 on the CPU; undefined for a name that the model does not have.
  at::Tensor find(std::string_view name) const {
    const at::NoGradGuard no_grad;
    if (name == "model.embed_tokens.weight") return stored("embedding");
    if (name == "model.norm.weight") return stored("final_norm");
    if (name == "lm_head.weight")
      return stored(config_.tied_output ? "embedding" : "output.weight");
    constexpr std::string_view prefix = "model.layers.";
    if (!name.starts_with(prefix)) return {};
    const std::string_view rest = name.substr(prefix.size());
    const std::size_t dot = rest.find('.'), last_dot = rest.rfind('.');
    if (dot == rest.npos || last_dot <= dot) return {};
    const std::string layer = fmt::format("layers.{}.", rest.substr(0, dot));
    return in_layer(layer, rest.substr(dot + 1, last_dot - dot - 1), rest.substr(last_dot + 1));
  }

 private:
  /// Where a projection lies in a matrix of several.
  struct Place {
    std::string_view name, matrix;
    std::int64_t begin, count;
  };

  at::Tensor stored(const std::string& name) const {
    const auto entry = tensors_.find(name);
    if (entry == tensors_.end()) return {};
    return entry->second.detach().to(at::kCPU, at::kFloat);
  }

  at::Tensor in_layer(const std::string& layer, std::string_view part,
                      std::string_view kind) const {
    constexpr std::pair<std::string_view, std::string_view> vectors[] = {
        {"input_layernorm", "attention_norm"},
        {"post_attention_layernorm", "mlp_norm"},
        {"self_attn.q_norm", "q_norm"},
        {"self_attn.k_norm", "k_norm"}};
    for (const auto& [name, ours] : vectors) {
      if (part == name && kind == "weight") return stored(layer + std::string(ours));
    }
    const std::int64_t q = config_.q_size(), kv = config_.kv_size();
    const Place places[] = {{"self_attn.q_proj", "qkv", 0, q},
                            {"self_attn.k_proj", "qkv", q, kv},
                            {"self_attn.v_proj", "qkv", q + kv, kv},
                            {"self_attn.o_proj", "o", 0, config_.hidden},
                            {"mlp.gate_proj", "gate_up", 0, config_.intermediate},
                            {"mlp.up_proj", "gate_up", config_.intermediate, config_.intermediate},
                            {"mlp.down_proj", "down", 0, config_.hidden}};
    for (const Place& place : places) {
      if (part == place.name) return projection(layer + std::string(place.matrix), place, kind);
    }
    return {};
  }

  at::Tensor projection(const std::string& matrix, const Place& place,
                        std::string_view kind) const {
    const auto entry = tensors_.find(fmt::format("{}.{}", matrix, kind));
    if (entry == tensors_.end()) return {};
    const at::Tensor rows =
        entry->second.detach().narrow(0, place.begin, place.count).to(at::kCPU, at::kFloat);
    const at::Tensor a = stored(fmt::format("{}.{}.lora_A", matrix, place.begin));
    const at::Tensor b = stored(fmt::format("{}.{}.lora_B", matrix, place.begin));
    if (kind != "weight" || !a.defined()) return rows;
    return at::addmm(rows, b, a, 1, scale_);
  }

  ModelConfig config_;
  std::map<std::string, at::Tensor> tensors_;
  double scale_ = 0;
};

std::span<const std::byte> bytes_of(const at::Tensor& tensor) {
  return {static_cast<const std::byte*>(tensor.const_data_ptr()), tensor.nbytes()};
}

/// Digest of everything that sets a model's weights apart from those of its source, on top of what
/// the source says of itself; that alone if nothing does. It does not depend on the dtype written.
std::string merged_digest(const Model& model, const MergeOptions& options) {
  text::Sha256 hash;
  hash.update(model.config().merged_adapter);
  bool differs = false;
  for (const auto& [name, tensor] : model.named_tensors()) {
    const bool is_update = name.ends_with(".lora_A") || name.ends_with(".lora_B");
    if (name == "gist_embeddings" || !(is_update || options.has_new_weights)) continue;
    const at::Tensor values = tensor.detach().to(at::kCPU, at::kFloat).contiguous();
    hash.update(name);
    hash.update({static_cast<const char*>(values.const_data_ptr()), values.nbytes()});
    differs = true;
  }
  if (!differs) return model.config().merged_adapter;
  if (model.adapter() != nullptr) hash.update(fmt::format("{}", model.adapter()->lora_scale()));
  return hash.finish();
}

/// As it is written: vectors keep f32, which is what their fingerprint and other programs want.
at::Tensor to_written(const at::Tensor& tensor, at::ScalarType dtype) {
  return tensor.to(tensor.dim() > 1 ? dtype : at::kFloat).contiguous();
}

/// Rows in the order of GGUF's llama architecture.
at::Tensor to_stored_rows(const at::Tensor& tensor, std::int64_t head_dim) {
  at::Tensor order = at::empty({tensor.size(0)}, at::kLong);
  auto* rows = order.data_ptr<std::int64_t>();
  for (std::int64_t row = 0; row < tensor.size(0); ++row) rows[stored_row(row, head_dim)] = row;
  return tensor.index_select(0, order);
}

void save_gguf(const Model& model, const fs::path& source, const fs::path& out,
               const MergeOptions& options) {
  const core::GgufFile file = core::GgufFile::open(source);
  const MergedWeights weights(model);
  std::vector<at::Tensor> written;  // keeps the bytes alive until they are written
  std::vector<core::GgufTensor> tensors = file.tensors();
  for (core::GgufTensor& tensor : tensors) {
    const std::string name = hugging_face_name(tensor.name);
    at::Tensor values = weights.find(name);
    if (!values.defined()) continue;  // a table that follows from the configuration
    if (model.config().family == Family::llama && is_q_or_k(name))
      values = to_stored_rows(values, model.config().head_dim);
    const at::Tensor& kept = written.emplace_back(to_written(values, options.dtype));
    tensor.type = *float_type(safetensors_dtype(kept.scalar_type()));
    tensor.data = bytes_of(kept);
  }
  std::map<std::string, std::string> strings;
  if (const std::string digest = merged_digest(model, options); !digest.empty())
    strings.emplace(gguf_merged_key, digest);
  core::write_gguf(out, file, tensors, strings);
}

/// Whether a file of a model directory holds weights.
bool holds_weights(const fs::path& path) {
  constexpr std::array<std::string_view, 9> endings = {
      ".safetensors", ".bin", ".pt", ".pth", ".gguf", ".h5", ".msgpack", ".onnx", ".ot"};
  return path.filename().string().ends_with(".index.json") ||
         std::ranges::find(endings, path.extension().string()) != endings.end();
}

/// Sets the digest in the configuration of a model directory.
void mark_directory(const fs::path& directory, const std::string& digest) {
  const fs::path path = directory / "config.json";
  nlohmann::json config = core::parse_json(core::read_file(path), path.string());
  config[std::string(hugging_face_merged_key)] = digest;
  core::write_file_atomic(path, config.dump(2) + "\n");
}

void save_directory(const Model& model, const fs::path& source, const fs::path& out,
                    const MergeOptions& options) {
  const auto file = core::SafetensorsFile::open_directory(source);
  const MergedWeights weights(model);
  std::vector<at::Tensor> written;
  std::vector<core::SafeTensor> tensors = file.tensors();
  for (core::SafeTensor& tensor : tensors) {
    const at::Tensor values = weights.find(tensor.name);
    if (!values.defined()) continue;
    const at::Tensor& kept = written.emplace_back(to_written(values, options.dtype));
    tensor.dtype = safetensors_dtype(kept.scalar_type());
    tensor.data = bytes_of(kept);
  }
  fs::create_directories(out);
  for (const auto& entry : fs::directory_iterator(source)) {
    if (!entry.is_regular_file() || holds_weights(entry.path())) continue;
    fs::copy_file(entry.path(), out / entry.path().filename(),
                  fs::copy_options::overwrite_existing);
  }
  if (const std::string digest = merged_digest(model, options); !digest.empty())
    mark_directory(out, digest);
  core::write_safetensors(out / "model.safetensors", tensors, {{"format", "pt"}});
}

}  // namespace

void save_merged(const Model& model, const fs::path& source, const fs::path& out,
                 const MergeOptions& options) {
  std::error_code error;
  if (fs::equivalent(source, out, error))
    core::input_error("merge: {} is the model itself; give another --out", out.string());
  if (!fs::is_directory(source)) {
    if (fs::is_directory(out))
      core::input_error("merge: {} is a folder; give the name of a GGUF file", out.string());
    save_gguf(model, source, out, options);
    return;
  }
  if (fs::exists(out) && !fs::is_empty(out, error))
    core::input_error("merge: {} is there already; give a new folder", out.string());
  fs::path partial = out;
  partial += ".partial";
  fs::remove_all(partial, error);  // of a call that was killed
  try {
    save_directory(model, source, partial, options);
    fs::rename(partial, out);
  } catch (const fs::filesystem_error& failure) {
    fs::remove_all(partial, error);
    core::resource_error("merge: {}: {}", out.string(), failure.code().message());
  } catch (...) {
    fs::remove_all(partial, error);
    throw;
  }
}

MergeRounding merge_rounding(const Model& adapted, const Model& merged) {
  const at::NoGradGuard no_grad;
  double weights = 0, updates = 0, rounding = 0;
  const auto add = [&](const Linear& exact, const Linear& rounded) {
    if (exact.loras().empty()) return;
    const auto sum_of_squares = [](const at::Tensor& x) { return x.square().sum().item<double>(); };
    const at::Tensor wanted = exact.merged_weight(at::kFloat);
    weights += sum_of_squares(wanted);
    updates += sum_of_squares(wanted.sub(exact.base().merged_weight(at::kFloat)));
    rounding += sum_of_squares(wanted.sub(rounded.merged_weight(at::kFloat)));
  };
  for (std::size_t i = 0; i < adapted.layers().size(); ++i) {
    const Model::Layer &a = adapted.layers()[i], &b = merged.layers()[i];
    add(a.qkv, b.qkv);
    add(a.o, b.o);
    add(a.gate_up, b.gate_up);
    add(a.down, b.down);
  }
  const auto relative_to = [&](double x) { return x > 0 ? std::sqrt(rounding / x) : 0; };
  return {relative_to(weights), relative_to(updates)};
}

fs::path gists_path(const fs::path& merged) {
  if (fs::is_directory(merged)) return merged / "gists.safetensors";
  fs::path path = merged;
  return path += ".gists.safetensors";
}

void save_gists(Adapter adapter, const fs::path& merged, const fs::path& out,
                at::ScalarType dtype) {
  adapter.loras.clear();
  adapter.info.lora_rank = 0;
  adapter.info.lora_alpha = 0;
  adapter.info.lora_targets.clear();
  adapter.info.base_fingerprint = Model::load(merged, {.dtype = at::kFloat})->fingerprint();
  adapter.save(out, dtype);
}

}  // namespace gsa::model
