#include "eval/sequence_ratio.h"

#include <cstddef>
#include <unordered_map>
#include <vector>

namespace gsa::eval {
namespace {

struct Span {
  std::size_t begin, end;
};

struct Block {
  std::size_t a, b, len;
};

class Matcher {
 public:
  Matcher(std::u32string_view a, std::u32string_view b) : a_(a), b_(b) {
    for (std::size_t j = 0; j < b.size(); ++j) places_[b[j]].push_back(j);
    if (b.size() < 200) return;
    const std::size_t max_places = b.size() / 100 + 1;
    std::erase_if(places_, [&](const auto& entry) { return entry.second.size() > max_places; });
  }

  std::size_t num_matching() const {
    std::size_t count = 0;
    std::vector<std::pair<Span, Span>> rest = {{{0, a_.size()}, {0, b_.size()}}};
    while (!rest.empty()) {
      const auto [in_a, in_b] = rest.back();
      rest.pop_back();
      const Block block = longest(in_a, in_b);
      if (block.len == 0) continue;
      count += block.len;
      rest.push_back({{in_a.begin, block.a}, {in_b.begin, block.b}});
      rest.push_back({{block.a + block.len, in_a.end}, {block.b + block.len, in_b.end}});
    }
    return count;
  }

 private:
  /// The longest common block; of several the one that begins first in a, then in b.
  Block longest(Span in_a, Span in_b) const {
    Block best{in_a.begin, in_b.begin, 0};
    std::unordered_map<std::size_t, std::size_t>
        lengths;  // of blocks that end at this j and at i-1
    for (std::size_t i = in_a.begin; i < in_a.end; ++i) {
      std::unordered_map<std::size_t, std::size_t> next_lengths;
      const auto places = places_.find(a_[i]);
      if (places != places_.end()) {
        for (const std::size_t j : places->second) {
          if (j < in_b.begin) continue;
          if (j >= in_b.end) break;
          const auto before = j == 0 ? lengths.end() : lengths.find(j - 1);
          const std::size_t len = before == lengths.end() ? 1 : before->second + 1;
          next_lengths[j] = len;
          if (len > best.len) best = {i + 1 - len, j + 1 - len, len};
        }
      }
      lengths = std::move(next_lengths);
    }
    return extended(best, in_a, in_b);
  }

  /// With the characters around it that begin no block of their own.
  Block extended(Block block, Span in_a, Span in_b) const {
    while (block.a > in_a.begin && block.b > in_b.begin && a_[block.a - 1] == b_[block.b - 1]) {
      --block.a;
      --block.b;
      ++block.len;
    }
    while (block.a + block.len < in_a.end && block.b + block.len < in_b.end &&
           a_[block.a + block.len] == b_[block.b + block.len])
      ++block.len;
    return block;
  }

  std::u32string_view a_, b_;
  std::unordered_map<char32_t, std::vector<std::size_t>> places_;  // in b, ascending
};

}  // namespace

double sequence_ratio(std::u32string_view a, std::u32string_view b) {
  const double total = static_cast<double>(a.size() + b.size());
  if (total == 0) return 1;
  return 2 * static_cast<double>(Matcher(a, b).num_matching()) / total;
}

}  // namespace gsa::eval
