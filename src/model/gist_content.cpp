#include "model/gist_content.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/embedding_bag.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <vector>

#include "attention/selection.h"
#include "core/error.h"

namespace gsa::model {
namespace {

using attention::Range;

// A gist of a high level may hold a whole context: tokens are looked up so many at a time, in
// blocks that begin at multiples of it.
constexpr std::int64_t kBlockLen = 4096;

/// Sums of consecutive rows [T, hidden]: those of segment i begin at `begins[i]`, and `begins` ends
/// with T.
at::Tensor segment_sums(const at::Tensor& rows, std::span<const std::int64_t> begins) {
  constexpr std::int64_t kSum = 0;
  const at::Tensor offsets = attention::to_tensor(begins, rows.device());
  const at::Tensor ids = at::arange(rows.size(0), offsets.options());
  return std::get<0>(at::embedding_bag(rows, ids, offsets, /*scale_grad_by_freq=*/false, kSum,
                                       /*sparse=*/false, /*per_sample_weights=*/{},
                                       /*include_last_offset=*/true));
}

}  // namespace

at::Tensor content_means(const attention::Layout& layout, const attention::QuerySlice& gists,
                         std::span<const std::int64_t> raw_tokens, const EmbeddingLookUp& look_up,
                         at::Device device) {
  std::vector<Range> ranges;  // of raw tokens; ascending, apart from each other
  std::vector<std::int64_t> lens;
  for (std::int64_t node = gists.begin; node < gists.begin + gists.count; ++node) {
    ranges.push_back(layout.raw_range(gists.level, node));
    lens.push_back(ranges.back().size());
  }
  const std::int64_t end = ranges.back().end;
  if (end > std::ssize(raw_tokens)) {
    core::internal_error("model: gists of {} tokens start from their content, {} tokens are given",
                         end, raw_tokens.size());
  }
  at::Tensor sums;
  std::int64_t first = 0;
  for (std::int64_t block = ranges[0].begin / kBlockLen * kBlockLen; block < end;
       block += kBlockLen) {
    while (ranges[first].end <= block) ++first;
    std::int64_t last = first;
    std::vector<std::int64_t> ids, begins{0};
    for (; last < gists.count && ranges[last].begin < block + kBlockLen; ++last) {
      const Range part{std::max(ranges[last].begin, block),
                       std::min(ranges[last].end, block + kBlockLen)};
      ids.insert(ids.end(), raw_tokens.begin() + part.begin, raw_tokens.begin() + part.end);
      begins.push_back(std::ssize(ids));
    }
    if (ids.empty()) continue;  // of pieces whose trees end below this level
    const at::Tensor rows = look_up(attention::to_tensor(ids, device)).to(at::kFloat);
    const at::Tensor part = segment_sums(rows, begins);
    if (!sums.defined()) sums = at::zeros({gists.count, part.size(1)}, part.options());
    sums.narrow(0, first, last - first).add_(part);
  }
  return sums / attention::to_tensor(lens, device).unsqueeze(1);
}

}  // namespace gsa::model
