#include "model/fingerprint.h"

#include "text/sha256.h"

namespace gsa::model {

std::string make_fingerprint(const ModelConfig& config, const text::Tokenizer& tokenizer,
                             std::span<const at::Tensor> norm_weights) {
  text::Sha256 hash;
  hash.update(family_name(config.family));
  for (const std::int64_t size :
       {config.hidden, config.intermediate, config.num_layers, config.num_heads,
        config.num_kv_heads, config.head_dim, config.vocab}) {
    hash.update_u32(static_cast<std::uint32_t>(size));
  }
  hash.update(tokenizer.digest());
  for (const at::Tensor& weight : norm_weights) {
    const at::Tensor rounded = weight.to(at::kCPU, at::kBFloat16).contiguous();
    hash.update({static_cast<const char*>(rounded.const_data_ptr()), rounded.nbytes()});
  }
  if (!config.merged_adapter.empty()) {  // else as it was before models could be marked
    hash.update("merged adapter ");
    hash.update(config.merged_adapter);
  }
  return hash.finish();
}

}  // namespace gsa::model
