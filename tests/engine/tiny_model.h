#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>

#include "model/model.h"

namespace gsa::engine::test {

/// Shape of a random Llama. Its tokenizer has a token per byte and the control tokens of ChatML, so
/// every text is as many tokens as bytes.
struct TinyModelOptions {
  std::int64_t hidden = 32;
  std::int64_t intermediate = 48;
  std::int64_t num_layers = 3;
  std::int64_t num_heads = 4;
  std::int64_t num_kv_heads = 2;
  std::int64_t head_dim = 8;
  std::int64_t trained_window = 4096;
  std::uint64_t seed = 1;
  std::string chat_template = {};  ///< Jinja text; the model has none if it is empty
};

/// The template text of a plain ChatML model.
inline constexpr const char* chatml_jinja =
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\\n' + message['content'] "
    "+ "
    "'<|im_end|>' + '\\n'}}{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|im_start|>assistant\\n' }}{% endif %}";

/// Writes a Hugging Face directory.
void write_tiny_model(const std::filesystem::path& directory, const TinyModelOptions& options = {});

/// Writes one to a scratch directory and loads it, f32 on the CPU.
std::shared_ptr<const model::Model> load_tiny_model(const TinyModelOptions& options = {});

/// The same model (default options) for all tests of a program.
const std::shared_ptr<const model::Model>& tiny_model();

/// A directory that is removed with this object.
class ScratchDirectory {
 public:
  ScratchDirectory();
  ~ScratchDirectory();
  ScratchDirectory(const ScratchDirectory&) = delete;
  ScratchDirectory& operator=(const ScratchDirectory&) = delete;

  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

/// Words of random letters with spaces and punctuation between, `num_chars` bytes in all.
std::string random_text(std::int64_t num_chars, std::uint64_t seed);

}  // namespace gsa::engine::test
