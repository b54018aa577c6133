#include "text/score_merges.h"

#include <algorithm>

namespace gsa::text {
namespace {

struct ScoredMerge {
  double score;
  Bpe::Merge merge;
};

bool begins_character(char byte) { return (byte & 0xc0) != 0x80; }

}  // namespace

RankedMerges merges_by_score(const std::unordered_map<std::string_view, std::int32_t>& ids,
                             const std::vector<bool>& special, std::span<const double> scores) {
  const auto find_part = [&](std::string_view text) {
    const auto entry = ids.find(text);
    return entry == ids.end() || special[entry->second] ? -1 : entry->second;
  };
  std::vector<ScoredMerge> scored;
  for (const auto& [text, id] : ids) {
    if (special[id]) continue;
    for (std::size_t cut = 1; cut < text.size(); ++cut) {
      if (!begins_character(text[cut])) continue;
      const auto left = find_part(text.substr(0, cut));
      const auto right = left < 0 ? -1 : find_part(text.substr(cut));
      if (right >= 0) scored.push_back({scores[id], {left, right, id}});
    }
  }
  std::ranges::sort(scored, std::ranges::greater(), &ScoredMerge::score);

  RankedMerges result;
  std::uint32_t rank = 0;
  for (std::size_t i = 0; i < scored.size(); ++i) {
    if (i > 0 && scored[i].score < scored[i - 1].score) ++rank;
    result.merges.push_back(scored[i].merge);
    result.ranks.push_back(rank);
  }
  return result;
}

}  // namespace gsa::text
