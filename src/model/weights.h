#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>
#include <c10/core/ScalarType.h>

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <initializer_list>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/quant.h"
#include "model/linear.h"

namespace gsa::core {
class GgufFile;
class SafetensorsFile;
}  // namespace gsa::core

namespace gsa::model {

struct ModelConfig;

/// The element type of a safetensors dtype name; nothing unless it is F32, F16 or BF16.
std::optional<core::DataType> float_type(std::string_view safetensors_dtype);

/// The other way round; internal error for a type that no weights have.
std::string_view safetensors_dtype(at::ScalarType type);

/// `blk.3.attn_q.weight` -> `model.layers.3.self_attn.q_proj.weight`; other names stay as they are.
std::string hugging_face_name(std::string_view gguf_name);

/// Whether a tensor (Hugging Face name) has rows that GGUF's llama architecture orders in its own
/// way.
bool is_q_or_k(std::string_view name);

/// Row of the file that holds row `row` in Hugging Face order. There, a head's first half of rows
/// pairs with its second half; GGUF's llama architecture puts the two rows of a pair next to each
/// other. `interleaved_head_dim`: as in `StoredTensor`.
std::int64_t stored_row(std::int64_t row, std::int64_t interleaved_head_dim);

/// A tensor as it lies in a file.
struct StoredTensor {
  std::string file_name;  ///< its name in the file, for messages
  core::DataType type;
  std::vector<std::int64_t> shape;  ///< row-major
  std::span<const std::byte> data;
  /// Rows per head if the file holds the rows of each head in the order of GGUF's llama
  /// architecture (pairs of RoPE next to each other), 0 if in Hugging Face order.
  std::int64_t interleaved_head_dim = 0;
  bool was_read = false;
};

/// How matrices are held in memory.
enum class MatrixForm {
  tensor,  ///< as numbers of the model's dtype
  packed,  ///< as they lie in the file where that is quantised (CPU only), else as tensors
};

/// Tensors of a model under their Hugging Face names and in Hugging Face row order, converted to
/// one dtype (f32 or bf16) on one device, whatever file they come from.
class WeightFile {
 public:
  /// Indexes the tensors of an open file, which is kept open. Nothing is read or converted yet.
  static WeightFile from_gguf(std::shared_ptr<const core::GgufFile> file, const ModelConfig& config,
                              at::ScalarType dtype, at::Device device,
                              MatrixForm form = MatrixForm::tensor);
  static WeightFile from_safetensors(std::shared_ptr<const core::SafetensorsFile> file,
                                     at::ScalarType dtype, at::Device device);

  /// Part of a matrix that is stacked from several tensors.
  struct Part {
    std::string name;
    std::int64_t num_rows;
  };
  /// Reads matrices of `num_cols` columns, or vectors, and stacks them along the rows, in parallel.
  /// Input error, before any allocation, if one is missing or has another shape. Returns [sum of
  /// rows, num_cols] (without a bias) or [sum of rows].
  Linear matrix(std::initializer_list<Part> parts, std::int64_t num_cols);
  at::Tensor vector(std::initializer_list<Part> parts);

  /// Input error if the file has weights that nobody asked for: then it is another kind of model
  /// than its configuration says.
  void check_all_read() const;

 private:
  WeightFile(std::string path, std::shared_ptr<const void> file, at::ScalarType dtype,
             at::Device device)
      : path_(std::move(path)), file_(std::move(file)), dtype_(dtype), device_(device) {}
  StoredTensor& find(const Part& part, std::span<const std::int64_t> shape);
  at::Tensor read(std::initializer_list<Part> parts, const at::Tensor& out);
  /// The parts as blocks: those of the file, or a copy with the rows of each head in order.
  std::shared_ptr<const PackedMatrix> pack(std::initializer_list<Part> parts);

  std::string path_;
  std::shared_ptr<const void> file_;  // keeps the mapping alive
  at::ScalarType dtype_;
  at::Device device_;
  MatrixForm form_ = MatrixForm::tensor;
  std::map<std::string, StoredTensor, std::less<>> tensors_;
};

}  // namespace gsa::model
