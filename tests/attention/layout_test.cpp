#include "attention/layout.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "attention/random_layout.h"
#include "support/errors.h"

namespace gsa::attention {
namespace {

/// The stream of method §1.5, e.g. "1..7 g 8..11 g G": raw runs by their 1-based numbers.
std::string stream(const Layout& layout) {
  std::vector<std::pair<std::int64_t, int>> marks;  // raw end, level
  for (int level = 0; level < layout.num_levels(); ++level) {
    for (std::int64_t node = 0; node < layout.num_nodes(level); ++node) {
      marks.emplace_back(layout.raw_range(level, node).end, level);
    }
  }
  std::sort(marks.begin(), marks.end());
  std::string text;
  std::int64_t begin = 0;
  const auto run = [&](std::int64_t end) {
    if (end > begin) text += fmt::format("{}..{} ", begin + 1, end);
    begin = std::max(begin, end);
  };
  for (const auto& [end, level] : marks) {
    run(end);
    text += level == 0 ? "g " : level == 1 ? "G " : "GG ";
  }
  run(layout.num_raw());
  return text.substr(0, text.size() - 1);
}

std::string stream_of(const char* sizes, int num_tokens, bool all_words = true) {
  LayoutOptions options;
  options.chunk_sizes = ChunkSizes::parse(sizes);
  return stream(build(options, {std::vector<std::uint8_t>(num_tokens, all_words)}));
}

TEST(Layout, FollowsThePublishedExample) {
  EXPECT_EQ(stream_of("4-2", 22), "1..7 g 8..11 g G 12..15 g 16..19 g G 20..22 g G");
}

TEST(Layout, EndsExactlyWithOneGist) {
  EXPECT_EQ(stream_of("4", 7), "1..7 g");
  EXPECT_EQ(stream_of("4", 8), "1..7 g 8..8 g");
  EXPECT_EQ(stream_of("4", 11), "1..7 g 8..11 g");
  EXPECT_EQ(stream_of("4-2", 11), "1..7 g 8..11 g G");
  EXPECT_EQ(stream_of("4", 1), "1..1 g");
  EXPECT_EQ(stream_of("4-2", 1), "1..1 g G");
}

TEST(Layout, WithoutWordStartsTheCutStays) {
  EXPECT_EQ(stream_of("4", 22, false), stream_of("4", 22, true));
}

TEST(Layout, CutMovesToTheNextWordWithinHalfAChunk) {
  LayoutOptions options;
  options.chunk_sizes = ChunkSizes::parse("4");
  options.num_sinks = 0;
  //                                      0  1  2  3  4  5  6  7  8  9 10 11 12 13
  const std::vector<std::uint8_t> bits = {1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1};
  // First cut 4 -> 6 (exactly c0/2 away); the next at 10 finds no word by 12 and stays.
  EXPECT_EQ(stream(build(options, {bits})), "1..6 g 7..10 g 11..14 g");
}

TEST(Layout, GrowingTreesStopAtTheirFirstSingleNode) {
  LayoutOptions options;
  options.chunk_sizes = ChunkSizes::parse("4-2-2");
  options.growing_depth = true;
  options.num_sinks = 0;
  const auto words = [](int count) { return std::vector<std::uint8_t>(count, 1); };
  EXPECT_EQ(stream(build(options, {words(4)})), "1..4 g");
  EXPECT_EQ(stream(build(options, {words(8)})), "1..4 g 5..8 g G");
  EXPECT_EQ(stream(build(options, {words(12)})), "1..4 g 5..8 g G 9..12 g G GG");
}

TEST(Layout, EveryDocumentIsChunkedForItself) {
  LayoutOptions options;
  options.chunk_sizes = ChunkSizes::parse("4");
  const std::vector<std::uint8_t> words(5, 1);
  const Layout layout = build(options, {words, {}, words});
  EXPECT_EQ(stream(layout), "1..5 g 6..9 g 10..10 g");
  EXPECT_EQ(layout.piece_begins(), (std::vector<std::int64_t>{0, 5}));
}

void expect_same(const Layout& a, const Layout& b) {
  ASSERT_EQ(stream(a), stream(b));
  for (int level = 0; level < a.num_levels(); ++level) {
    ASSERT_EQ(a.roots(level), b.roots(level));
    for (std::int64_t node = 0; node < a.num_nodes(level); ++node) {
      ASSERT_EQ(a.children(level, node), b.children(level, node));
      ASSERT_EQ(a.parent(level, node), b.parent(level, node));
    }
  }
}

TEST(Layout, AppendingInAnyPortionsGivesTheSame) {
  core::Rng rng(1);
  for (int round = 0; round < 1000; ++round) {
    const LayoutOptions options = random_options(rng, 4);
    const auto pieces = random_pieces(rng, 4, 60);
    Layout portions(options);
    for (const auto& piece : pieces) {
      for (std::size_t begin = 0; begin < piece.size();) {
        const std::size_t count = std::min<std::size_t>(1 + rng.below(3), piece.size() - begin);
        portions.append({piece.data() + begin, count});
        begin += count;
      }
      portions.end_piece();
    }
    expect_same(build(options, pieces), portions);
  }
}

TEST(Layout, FinalCutsNeverMove) {
  core::Rng rng(2);
  for (int round = 0; round < 500; ++round) {
    const LayoutOptions options = random_options(rng, 3);
    const auto piece = random_pieces(rng, 1, 80)[0];
    Layout growing(options);
    const Layout whole = build(options, {piece});
    for (const std::uint8_t bit : piece) {
      growing.append({&bit, 1});
      for (int level = 0; level < growing.num_levels(); ++level) {
        ASSERT_LE(growing.num_nodes(level), whole.num_nodes(level));
        for (std::int64_t node = 0; node < growing.num_nodes(level); ++node) {
          ASSERT_EQ(growing.children(level, node), whole.children(level, node));
        }
      }
    }
  }
}

TEST(Layout, ChunksTileTheTextAndKeepTheirLength) {
  core::Rng rng(3);
  for (int round = 0; round < 500; ++round) {
    const LayoutOptions options = random_options(rng, 3);
    const auto pieces = random_pieces(rng, 3, 60);
    const Layout layout = build(options, pieces);
    ASSERT_EQ(layout.num_folded(), layout.num_raw());
    std::vector<std::int64_t> piece_ends = layout.piece_begins();
    piece_ends.push_back(layout.num_raw());
    const std::int32_t c0 = options.chunk_sizes.sizes[0];
    std::int64_t expected_begin = 0;
    for (std::int64_t chunk = 0; chunk < layout.num_nodes(0); ++chunk) {
      const Range raw = layout.children(0, chunk);
      ASSERT_EQ(raw.begin, expected_begin);
      ASSERT_GT(raw.size(), 0);
      const std::int64_t counted = raw.size() - (chunk == 0 ? options.num_sinks : 0);
      ASSERT_LE(counted, c0 + c0 / 2);
      const bool is_last =
          std::find(piece_ends.begin(), piece_ends.end(), raw.end) != piece_ends.end();
      ASSERT_TRUE(is_last || counted >= c0);
      expected_begin = raw.end;
    }
    for (int level = 1; level < layout.num_levels(); ++level) {
      for (std::int64_t node = 0; node < layout.num_nodes(level); ++node) {
        const Range children = layout.children(level, node);
        ASSERT_GE(children.size(), 1);
        ASSERT_LE(children.size(), options.chunk_sizes.sizes[level]);
        for (std::int64_t child = children.begin; child < children.end; ++child) {
          ASSERT_EQ(layout.parent(level - 1, child), node);
        }
      }
    }
  }
}

TEST(ChunkSizes, ParsesAndPrints) {
  for (const char* text : {"16", "4-4", "8-4", "16-16-16"}) {
    EXPECT_EQ(ChunkSizes::parse(text).to_string(), text);
  }
  EXPECT_EQ(ChunkSizes::parse("8-4").nominal_ratio(), 32);
}

TEST(ChunkSizes, RefusesWhatIsNoSize) {
  for (const char* text : {"", "0", "1", "4-0", "x", "4-", "-4", "4--4", "4.5", "99999", " 4",
                           "4-4x", "2-2-2-2-2-2-2-2-2"}) {
    EXPECT_THAT(test::error_of([&] { ChunkSizes::parse(text); }),
                test::IsError(ErrorKind::input, "chunk sizes"))
        << text;
  }
}

}  // namespace
}  // namespace gsa::attention
