#include "train/rows.h"

#include <ATen/ops/empty.h>

#include <algorithm>
#include <cstring>
#include <string>

#include "core/error.h"

namespace gsa::train {
namespace {

using attention::BatchSequence;
using attention::kRawLevel;
using attention::Layout;

at::Tensor to_tensor(const std::vector<std::int64_t>& values, bool pins_memory) {
  const auto len = static_cast<std::int64_t>(values.size());
  at::Tensor tensor =
      at::empty({len}, at::TensorOptions(at::kLong).device(at::kCPU).pinned_memory(pins_memory));
  if (len > 0) std::memcpy(tensor.mutable_data_ptr(), values.data(), tensor.nbytes());
  return tensor;
}

/// Collects the rows of a batch on the host.
class Packer {
 public:
  Packer(const std::vector<bool>& word_starts, const PackOptions& options)
      : word_starts_(word_starts), options_(options) {}

  void add(const Example& example, const attention::PolicySpec& spec) {
    auto layout = std::make_unique<Layout>(spec.layout);
    std::vector<std::int64_t> raw;
    for (const auto& piece : example.pieces) add_piece(piece, *layout, raw);
    if (raw.empty()) core::input_error("train: a row has no tokens; the data are damaged");
    auto policy = attention::make_policy(spec);
    BatchSequence sequence{layout.get(), policy.get(), nullptr, nullptr, {}};

    const std::int64_t first_row = num_rows();
    add_slice(sequence, {kRawLevel, 0, static_cast<std::int64_t>(raw.size()), {}}, false);
    for (std::size_t i = 0; i < raw.size(); ++i) add_row(raw[i], static_cast<std::int64_t>(i));
    const int num_levels = policy->uses_gists() ? layout->num_levels() : 0;
    for (int level = 0; level < num_levels; ++level) {
      const std::int64_t count = layout->num_nodes(level);
      add_slice(sequence, {level, 0, count, {}}, false);
      for (std::int64_t node = 0; node < count; ++node) add_row(0, layout->position(level, node));
    }
    if (example.suffixes.empty()) {
      label_context(raw, first_row);
    } else {
      add_suffixes(example, sequence);
    }
    result_.num_raw += static_cast<std::int64_t>(raw.size());
    sequence.raw_tokens = result_.contexts.emplace_back(std::move(raw));
    result_.batch.sequences.push_back(std::move(sequence));
    result_.layouts.push_back(std::move(layout));
    result_.policies.push_back(std::move(policy));
  }

  PackedRows finish() {
    result_.batch.tokens = to_tensor(tokens_, options_.pins_memory);
    result_.batch.positions = to_tensor(positions_, options_.pins_memory);
    result_.rows = to_tensor(label_rows_, options_.pins_memory);
    result_.labels = to_tensor(labels_, options_.pins_memory);
    return std::move(result_);
  }

 private:
  std::int64_t num_rows() const { return static_cast<std::int64_t>(tokens_.size()); }

  void add_row(std::int64_t token, std::int64_t position) {
    tokens_.push_back(token);
    positions_.push_back(position);
  }

  void add_label(std::int64_t row, std::int64_t label) {
    label_rows_.push_back(row);
    labels_.push_back(label);
  }

  void add_slice(BatchSequence& sequence, attention::QuerySlice entries, bool is_suffix) {
    if (entries.count == 0) return;
    sequence.slices.push_back({std::move(entries), num_rows(), is_suffix});
  }

  /// Ids beyond the tokenizer's own are rows of padding in the embedding; data cannot hold them.
  std::int64_t checked(std::int32_t id) const {
    if (id < 0 || static_cast<std::size_t>(id) >= word_starts_.size()) {
      core::input_error(
          "train: token id {} in the data, {} in the vocabulary; prepare the data with "
          "this model",
          id, word_starts_.size());
    }
    return id;
  }

  void add_piece(const std::vector<std::int32_t>& piece, Layout& layout,
                 std::vector<std::int64_t>& raw) const {
    std::vector<std::uint8_t> bits;
    bits.reserve(piece.size());
    for (const std::int32_t id : piece) {
      raw.push_back(checked(id));
      bits.push_back(word_starts_[static_cast<std::size_t>(id)]);
    }
    layout.append(bits);
    layout.end_piece();
  }

  void label_context(const std::vector<std::int64_t>& raw, std::int64_t first_row) {
    const auto num_labels = static_cast<std::int64_t>(raw.size()) - 1;
    const std::int64_t skipped =
        options_.max_labels > 0 ? std::max<std::int64_t>(0, num_labels - options_.max_labels) : 0;
    for (std::int64_t i = skipped; i < num_labels; ++i)
      add_label(first_row + i, raw[static_cast<std::size_t>(i) + 1]);
    const std::int64_t num_bare = std::max<std::int64_t>(0, num_labels - skipped);
    if (num_bare == 0) return;
    const bool is_bounded = options_.max_bare_weight > 0 && num_bare > options_.max_bare_weight;
    const double weight =
        is_bounded ? static_cast<double>(options_.max_bare_weight) / static_cast<double>(num_bare)
                   : 1;
    auto& all = result_.bare_labels;
    if (all.empty() || all.back().weight != weight) all.push_back({0, weight});
    all.back().count += num_bare;
  }

  void add_suffixes(const Example& example, BatchSequence& sequence) {
    const std::int64_t num_context = sequence.layout->num_raw();
    attention::QuerySlice slice{kRawLevel, num_context, 0, {}};
    for (const Suffix& suffix : example.suffixes) {
      const std::int64_t branch_begin = num_context + slice.count;
      slice.count += static_cast<std::int64_t>(suffix.tokens.size());
      slice.branch_begins.insert(slice.branch_begins.end(), suffix.tokens.size(), branch_begin);
    }
    result_.num_raw += slice.count;
    add_slice(sequence, std::move(slice), true);
    for (const Suffix& suffix : example.suffixes) {
      const std::int64_t first_row = num_rows();
      for (std::size_t i = 0; i < suffix.tokens.size(); ++i)
        add_row(checked(suffix.tokens[i]), num_context + static_cast<std::int64_t>(i));
      for (std::size_t i = std::max<std::int64_t>(1, suffix.num_prompt); i < suffix.tokens.size();
           ++i)
        add_label(first_row + static_cast<std::int64_t>(i) - 1, suffix.tokens[i]);
    }
  }

  const std::vector<bool>& word_starts_;
  PackOptions options_;
  PackedRows result_;
  std::vector<std::int64_t> tokens_, positions_, label_rows_, labels_;
};

}  // namespace

attention::PolicySpec row_policy(const attention::ChunkSizes& chunk_sizes, std::string_view keys) {
  if (chunk_sizes.sizes.empty()) return attention::PolicySpec::parse("full");
  std::string text = "gsa@" + chunk_sizes.to_string();
  if (!keys.empty()) text.append(":").append(keys);
  return attention::PolicySpec::parse(text);
}

std::string row_policy_name(const attention::PolicySpec& policy, std::string_view common_keys) {
  const attention::ChunkSizes& sizes = policy.layout.chunk_sizes;
  if (sizes.sizes.empty()) return "full";
  const std::string text = policy.to_string() + ":";
  const std::string common = row_policy(sizes, common_keys).to_string() + ":";
  std::string name = sizes.to_string();
  for (std::size_t begin = text.find(':'); begin + 1 < text.size();) {
    const std::size_t end = text.find(':', begin + 1);
    const std::string key = text.substr(begin, end - begin);
    if (common.find(key + ":") == common.npos) name += key;
    begin = end;
  }
  return name;
}

std::int64_t PackedRows::num_bare_labels() const {
  std::int64_t count = 0;
  for (const BareLabels& labels : bare_labels) count += labels.count;
  return count;
}

double PackedRows::label_weight() const {
  double weight = static_cast<double>(num_asked_labels());
  for (const BareLabels& labels : bare_labels)
    weight += labels.weight * static_cast<double>(labels.count);
  return weight;
}

void PackedRows::to(at::Device device) {
  for (at::Tensor* tensor : {&batch.tokens, &batch.positions, &rows, &labels})
    *tensor = tensor->to(device, /*non_blocking=*/true);
}

PackedRows pack_rows(std::span<const Example> examples,
                     std::span<const attention::PolicySpec> policies,
                     const std::vector<bool>& word_starts, const PackOptions& options) {
  if (examples.size() != policies.size()) {
    core::internal_error("pack_rows: {} examples, {} policies", examples.size(), policies.size());
  }
  Packer packer(word_starts, options);
  for (std::size_t i = 0; i < examples.size(); ++i) packer.add(examples[i], policies[i]);
  return packer.finish();
}

}  // namespace gsa::train
