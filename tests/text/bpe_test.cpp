#include "text/bpe.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <numeric>
#include <random>
#include <string>

namespace gsa::test {
namespace {

using text::Bpe;

std::array<std::int32_t, 256> identity() {
  std::array<std::int32_t, 256> ids;
  std::iota(ids.begin(), ids.end(), 0);
  return ids;
}

/// The definition: merge the pair of the lowest rank, the leftmost first, until none is left.
std::vector<std::int32_t> encode_by_definition(const std::string& piece,
                                               const std::vector<Bpe::Merge>& merges) {
  std::vector<std::int32_t> ids;
  for (const unsigned char byte : piece) ids.push_back(byte);
  while (true) {
    std::size_t best_rank = merges.size();
    std::size_t best_at = 0;
    for (std::size_t i = 0; i + 1 < ids.size(); ++i) {
      for (std::size_t rank = 0; rank < best_rank; ++rank) {
        if (merges[rank].left == ids[i] && merges[rank].right == ids[i + 1]) {
          best_rank = rank;
          best_at = i;
        }
      }
    }
    if (best_rank == merges.size()) return ids;
    ids[best_at] = merges[best_rank].result;
    ids.erase(ids.begin() + static_cast<std::ptrdiff_t>(best_at) + 1);
  }
}

/// Random merges over three letters, so that pieces are full of choices. Equal texts have equal
/// ids, as in a vocabulary.
std::vector<Bpe::Merge> random_merges(std::mt19937& rng) {
  std::map<std::string, std::int32_t> vocab = {{"a", 'a'}, {"b", 'b'}, {"c", 'c'}};
  std::vector<std::string> texts = {"a", "b", "c"};
  std::vector<Bpe::Merge> merges;
  std::map<std::pair<std::int32_t, std::int32_t>, bool> seen;
  for (int i = 0; i < 30; ++i) {
    const auto& left = texts[rng() % texts.size()];
    const auto& right = texts[rng() % texts.size()];
    const auto both = left + right;
    if (both.size() > 8 || seen[{vocab[left], vocab[right]}]) continue;
    seen[{vocab[left], vocab[right]}] = true;
    const auto id =
        vocab.emplace(both, 256 + static_cast<std::int32_t>(vocab.size())).first->second;
    merges.push_back({vocab[left], vocab[right], id});
    texts.push_back(both);
  }
  std::shuffle(merges.begin(), merges.end(), rng);
  return merges;
}

TEST(Bpe, ShortAndLongPiecesFollowTheDefinition) {
  std::mt19937 rng(3);
  for (int round = 0; round < 300; ++round) {
    const auto merges = random_merges(rng);
    const Bpe bpe(identity(), merges);
    for (const std::size_t len : {0, 1, 2, 3, 7, 20, 47, 48, 49, 50, 90, 200}) {
      std::string piece(len, ' ');
      for (auto& c : piece) c = "abc"[rng() % 3];
      std::vector<std::int32_t> ids;
      bpe.encode(piece, ids);
      ASSERT_EQ(ids, encode_by_definition(piece, merges)) << piece;
    }
  }
}

TEST(Bpe, BytesWithoutATokenAreDropped) {
  auto byte_ids = identity();
  byte_ids['x'] = -1;
  const Bpe bpe(byte_ids, std::vector<Bpe::Merge>{{'a', 'b', 300}});
  for (const auto& filler : {std::string(), std::string("xx"), std::string(100, 'x')}) {
    std::vector<std::int32_t> ids;
    bpe.encode("a" + filler + "bx", ids);
    EXPECT_EQ(ids, std::vector{300});
  }
}

TEST(Bpe, OfTwoEntriesForOnePairTheLaterCounts) {
  const Bpe bpe(identity(),
                std::vector<Bpe::Merge>{{'a', 'b', 300}, {'b', 'c', 301}, {'a', 'b', 302}});
  std::vector<std::int32_t> ids;
  bpe.encode("abc ab", ids);
  EXPECT_EQ(ids, (std::vector{97, 301, 32, 302}));
}

}  // namespace
}  // namespace gsa::test
