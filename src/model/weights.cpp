#include "model/weights.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <c10/util/BFloat16.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "core/error.h"
#include "core/file.h"
#include "core/gguf.h"
#include "core/safetensors.h"
#include "core/utf8.h"
#include "model/config.h"

namespace gsa::model {
namespace {

using core::input_error;

/// GGUF's names for the parts of a layer, in Hugging Face's words.
constexpr std::array<std::pair<std::string_view, std::string_view>, 11> layer_names{{
    {"attn_norm", "input_layernorm"},
    {"attn_q", "self_attn.q_proj"},
    {"attn_k", "self_attn.k_proj"},
    {"attn_v", "self_attn.v_proj"},
    {"attn_q_norm", "self_attn.q_norm"},
    {"attn_k_norm", "self_attn.k_norm"},
    {"attn_output", "self_attn.o_proj"},
    {"ffn_norm", "post_attention_layernorm"},
    {"ffn_gate", "mlp.gate_proj"},
    {"ffn_up", "mlp.up_proj"},
    {"ffn_down", "mlp.down_proj"},
}};

/// Expands rows to f32, or through f32 to bf16.
class RowReader {
 public:
  RowReader(const StoredTensor& tensor, std::int64_t num_rows)
      : tensor_(tensor), row_bytes_(static_cast<std::int64_t>(tensor.data.size()) / num_rows) {}

  void read(std::int64_t row, std::span<float> out) const {
    core::dequantize(tensor_.type, bytes(row), out);
  }

  void read(std::int64_t row, std::span<c10::BFloat16> out) {
    if (tensor_.type == core::DataType::bf16) {
      std::memcpy(out.data(), bytes(row).data(), out.size_bytes());
      return;
    }
    buffer_.resize(out.size());
    core::dequantize(tensor_.type, bytes(row), buffer_);
    for (std::size_t i = 0; i < out.size(); ++i) out[i] = buffer_[i];
  }

 private:
  std::span<const std::byte> bytes(std::int64_t row) const {
    const std::int64_t idx = stored_row(row, tensor_.interleaved_head_dim);
    return tensor_.data.subspan(static_cast<std::size_t>(idx * row_bytes_),
                                static_cast<std::size_t>(row_bytes_));
  }

  const StoredTensor& tensor_;
  std::int64_t row_bytes_;
  std::vector<float> buffer_;
};

/// Fills `out`, [num_rows, num_cols] in memory.
template <typename T>
void read_rows(const StoredTensor& tensor, std::int64_t num_rows, std::int64_t num_cols, T* out) {
  constexpr std::int64_t elements_per_task = 1 << 16;
  const std::int64_t grain = std::max<std::int64_t>(1, elements_per_task / num_cols);
  at::parallel_for(0, num_rows, grain, [&](std::int64_t begin, std::int64_t end) {
    RowReader reader(tensor, num_rows);
    for (std::int64_t row = begin; row < end; ++row) {
      reader.read(row, std::span<T>(out + row * num_cols, static_cast<std::size_t>(num_cols)));
    }
  });
}

void read_rows(const StoredTensor& tensor, const at::Tensor& out) {
  const std::int64_t num_rows = out.size(0);
  const std::int64_t num_cols = out.dim() == 2 ? out.size(1) : 1;
  if (out.scalar_type() == at::kFloat) {
    read_rows(tensor, num_rows, num_cols, out.data_ptr<float>());
  } else {
    read_rows(tensor, num_rows, num_cols, out.data_ptr<c10::BFloat16>());
  }
}

}  // namespace

std::string hugging_face_name(std::string_view name) {
  if (name == "token_embd.weight") return "model.embed_tokens.weight";
  if (name == "output_norm.weight") return "model.norm.weight";
  if (name == "output.weight") return "lm_head.weight";
  constexpr std::string_view prefix = "blk.";
  const std::size_t layer_end = name.find('.', prefix.size());
  const std::size_t part_end = name.rfind('.');
  if (!name.starts_with(prefix) || layer_end == name.npos || part_end <= layer_end) {
    return std::string(name);
  }
  const std::string_view layer = name.substr(prefix.size(), layer_end - prefix.size());
  const std::string_view part = name.substr(layer_end + 1, part_end - layer_end - 1);
  for (const auto& [gguf, hugging_face] : layer_names) {
    if (part == gguf) {
      return fmt::format("model.layers.{}.{}{}", layer, hugging_face, name.substr(part_end));
    }
  }
  return std::string(name);
}

bool is_q_or_k(std::string_view name) {
  return name.find("self_attn.q_proj.") != name.npos || name.find("self_attn.k_proj.") != name.npos;
}

std::int64_t stored_row(std::int64_t row, std::int64_t interleaved_head_dim) {
  if (interleaved_head_dim == 0) return row;
  const std::int64_t in_head = row % interleaved_head_dim;
  const std::int64_t half = interleaved_head_dim / 2;
  return row - in_head + 2 * (in_head % half) + in_head / half;
}

std::optional<core::DataType> float_type(std::string_view safetensors_dtype) {
  if (safetensors_dtype == "F32") return core::DataType::f32;
  if (safetensors_dtype == "F16") return core::DataType::f16;
  if (safetensors_dtype == "BF16") return core::DataType::bf16;
  return std::nullopt;
}

std::string_view safetensors_dtype(at::ScalarType type) {
  if (type == at::kFloat) return "F32";
  if (type == at::kHalf) return "F16";
  if (type == at::kBFloat16) return "BF16";
  core::internal_error("weights: no file type for {}", c10::toString(type));
}

WeightFile WeightFile::from_gguf(std::shared_ptr<const core::GgufFile> file,
                                 const ModelConfig& config, at::ScalarType dtype, at::Device device,
                                 MatrixForm form) {
  // Names and vocabulary need not stay as long as weights that are used as they lie in the file.
  WeightFile weights(file->path().string(), file->bytes_owner(), dtype, device);
  weights.form_ = form;
  for (const core::GgufTensor& tensor : file->tensors()) {
    const std::string name = hugging_face_name(tensor.name);
    StoredTensor stored{tensor.name, tensor.type, tensor.shape, tensor.data};
    if (config.family == Family::llama && is_q_or_k(name)) {
      stored.interleaved_head_dim = config.head_dim;
    }
    weights.tensors_.emplace(name, std::move(stored));
  }
  return weights;
}

WeightFile WeightFile::from_safetensors(std::shared_ptr<const core::SafetensorsFile> file,
                                        at::ScalarType dtype, at::Device device) {
  WeightFile weights(file->path().string(), file, dtype, device);
  for (const core::SafeTensor& tensor : file->tensors()) {
    const auto type = float_type(tensor.dtype);
    if (!type) {
      input_error("model: {}: tensor '{}' is of type {}; f32, f16 and bf16 are supported",
                  weights.path_, core::printable(tensor.name), tensor.dtype);
    }
    weights.tensors_.emplace(tensor.name,
                             StoredTensor{tensor.name, *type, tensor.shape, tensor.data});
  }
  return weights;
}

StoredTensor& WeightFile::find(const Part& part, std::span<const std::int64_t> shape) {
  const auto entry = tensors_.find(part.name);
  if (entry == tensors_.end()) {
    input_error("model: {}: tensor '{}' is missing; the file is incomplete", path_, part.name);
  }
  StoredTensor& tensor = entry->second;
  if (!std::ranges::equal(tensor.shape, shape)) {
    input_error(
        "model: {}: tensor '{}' has shape [{}], the configuration says [{}]; the file is damaged",
        path_, tensor.file_name, fmt::join(tensor.shape, ", "), fmt::join(shape, ", "));
  }
  if (shape.size() == 1 && core::block_len(tensor.type) != 1) {
    input_error("model: {}: vector '{}' is quantised ({}), which is not supported", path_,
                tensor.file_name, core::data_type_name(tensor.type));
  }
  return tensor;
}

Linear WeightFile::matrix(std::initializer_list<Part> parts, std::int64_t num_cols) {
  std::int64_t num_rows = 0;
  bool is_quantized = true;
  for (const Part& part : parts) {
    const StoredTensor& tensor = find(part, std::array{part.num_rows, num_cols});
    is_quantized = is_quantized && core::block_len(tensor.type) > 1;
    num_rows += part.num_rows;
  }
  if (form_ == MatrixForm::packed && is_quantized) return Linear(pack(parts));
  return Linear(read(parts, at::empty({num_rows, num_cols}, dtype_)));
}

std::shared_ptr<const PackedMatrix> WeightFile::pack(std::initializer_list<Part> parts) {
  struct Owner {
    std::shared_ptr<const void> file;
    std::vector<std::vector<std::byte>> copies;
  };
  auto owner = std::make_shared<Owner>(Owner{file_, {}});
  std::vector<kernels::MatrixView> views;
  for (const Part& part : parts) {
    StoredTensor& tensor = tensors_.find(part.name)->second;
    tensor.was_read = true;
    const std::byte* data = tensor.data.data();
    if (tensor.interleaved_head_dim > 0) {
      std::vector<std::byte>& copy = owner->copies.emplace_back(tensor.data.size());
      const std::size_t row_len = tensor.data.size() / static_cast<std::size_t>(part.num_rows);
      for (std::int64_t row = 0; row < part.num_rows; ++row) {
        const std::int64_t from = stored_row(row, tensor.interleaved_head_dim);
        std::memcpy(copy.data() + row * row_len, data + from * row_len, row_len);
      }
      data = copy.data();
      core::leave_on_disk(tensor.data);
    }
    views.push_back({tensor.type, data, part.num_rows, tensor.shape[1]});
  }
  return std::make_shared<const PackedMatrix>(std::move(views), std::move(owner));
}

at::Tensor WeightFile::vector(std::initializer_list<Part> parts) {
  std::int64_t num_rows = 0;
  for (const Part& part : parts) {
    find(part, std::array{part.num_rows});
    num_rows += part.num_rows;
  }
  return read(parts, at::empty({num_rows}, dtype_));
}

at::Tensor WeightFile::read(std::initializer_list<Part> parts, const at::Tensor& out) {
  std::int64_t row = 0;
  for (const Part& part : parts) {
    StoredTensor& tensor = tensors_.find(part.name)->second;
    read_rows(tensor, out.narrow(0, row, part.num_rows));
    tensor.was_read = true;
    row += part.num_rows;
  }
  return out.to(device_);
}

void WeightFile::check_all_read() const {
  for (const auto& [name, tensor] : tensors_) {
    // A tied output written out once more, and tables that follow from the configuration.
    const bool is_redundant = name == "lm_head.weight" || name == "rope_freqs.weight" ||
                              name.ends_with("rotary_emb.inv_freq");
    if (!tensor.was_read && !is_redundant) {
      input_error(
          "model: {}: tensor '{}' is no part of the model that the configuration describes; "
          "models of this kind are not supported",
          path_, core::printable(tensor.file_name));
    }
  }
}

}  // namespace gsa::model
