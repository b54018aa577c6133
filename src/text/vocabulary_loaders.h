#pragma once

#include <filesystem>
#include <memory>

#include "text/vocabulary.h"

namespace gsa::core {
class GgufFile;
}

namespace gsa::text {

/// `tokenizer.ggml.*` of a GGUF file.
std::shared_ptr<const TokenizerData> load_gguf_vocabulary(const core::GgufFile& file);

/// tokenizer.json and what stands beside it.
std::shared_ptr<const TokenizerData> load_hf_vocabulary(const std::filesystem::path& dir);

}  // namespace gsa::text
