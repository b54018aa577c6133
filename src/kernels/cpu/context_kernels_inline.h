#pragma once

#include "kernels/cpu/bf16_inline.h"
#include "kernels/cpu/context_kernels.h"
#include "kernels/cpu/floats_inline.h"

// The kernel of context_attention.h over products `P` of one instruction set: each compiles it with
// its own flags, so everything is in an unnamed namespace and nothing is of the standard library.
//
// A register holds one number of P::S::kLanes rows; a row is one query head of one query. Keys are
// gathered in tiles, from all columns one after the other. For a tile and a register of rows,
//   scores [keys, lanes] = keys [keys, d] x rows [d, lanes]
//   sums   [d, lanes]   += values^T [d, keys] x weights [keys, lanes]
// with a running softmax between them. What is multiplied are words: one f32, or a pair of bf16
// along the summed dimension.
//   P::S                registers of floats
//   P::Word, P::kPer    a word, numbers in it
//   P::kTileKeys        keys of a tile, a multiple of P::kStep
//   P::kStep            keys that are computed or skipped together
//   load_words          kLanes words of a row in memory, as a register of floats; load_words_part
//                       fewer, zeros behind
//   pack_keys, pack_values  rows of a tile in the form of the products
//   scores, add_values  the products for keys [begin, end), multiples of kStep
//   store_weights       weights of the keys j to j + kPer - 1
namespace gsa::kernels {
namespace {

// A row that saw no key yet has this peak: lower than any score, and its differences are finite.
constexpr float kNoPeak = -1e38F;

constexpr std::int64_t round_up(std::int64_t n, std::int64_t to) { return (n + to - 1) / to * to; }
inline std::int64_t least(std::int64_t a, std::int64_t b) { return a < b ? a : b; }
inline std::int64_t most(std::int64_t a, std::int64_t b) { return a > b ? a : b; }

inline void store_rounded(const float* x, std::int64_t n, float* out) {
  for (std::int64_t i = 0; i < n; ++i) out[i] = x[i];
}
inline void store_rounded(const float* x, std::int64_t n, Brain* out) {
  for (std::int64_t i = 0; i < n; ++i) out[i].bits = round_to_bf16(x[i]);
}

/// Where things lie in the scratch of a block, in bytes, each a multiple of 64.
template <class P>
struct ContextScratch {
  static constexpr std::int64_t kLanes = P::S::kLanes;
  std::int64_t num_groups;  ///< registers of rows
  std::int64_t rows, sums, peaks, totals, keys, values, scores, weights, zeros, end;

  ContextScratch(const ContextShape& shape, std::int64_t num_queries)
      : num_groups(round_up(num_queries * shape.group, kLanes) / kLanes) {
    const std::int64_t d = shape.head_dim, word = sizeof(typename P::Word);
    end = 0;
    rows = take(num_groups * (d / P::kPer) * kLanes * word);
    sums = take(num_groups * d * kLanes * 4);
    peaks = take(num_groups * kLanes * 4);
    totals = take(num_groups * kLanes * 4);
    keys = take(P::kTileKeys * (d / P::kPer) * word);
    values = take(P::kTileKeys / P::kPer * d * word);
    scores = take(P::kTileKeys * kLanes * 4);
    weights = take(P::kTileKeys / P::kPer * kLanes * word);
    zeros = take(d * 4);
  }

 private:
  std::int64_t take(std::int64_t bytes) {
    const std::int64_t at = end;
    end += round_up(bytes, 64);
    return at;
  }
};

/// One block; keys and values of type T.
template <class P, typename T>
class ContextTask {
  using S = typename P::S;
  using F = typename S::F;
  using Word = typename P::Word;
  static constexpr int kLanes = S::kLanes, kTileKeys = P::kTileKeys, kStep = P::kStep;
  static constexpr int kNumSteps = kTileKeys / kStep;
  static constexpr int kMaxPieces = 16;
  static constexpr int kChains = 4;  // maxima and sums that do not wait for each other

  /// Keys of a tile that come from one column: entries [begin, begin + count).
  struct Piece {
    const KeyColumn* column;
    std::int64_t begin;
    int offset, count;
  };
  /// Entries of a tile that queries see: [begin, end), from the start of a piece.
  struct Bounds {
    std::int64_t begin, end;
  };
  enum class Step : unsigned char { hidden, partial, open };

 public:
  explicit ContextTask(const ContextBlock& block)
      : block_(block),
        shape_(*block.shape),
        d_(shape_.head_dim),
        num_words_(d_ / P::kPer),
        num_rows_(block.num_queries * shape_.group),
        plan_(shape_, block.num_queries),
        rows_(at<Word>(plan_.rows)),
        sums_(at<float>(plan_.sums)),
        peaks_(at<float>(plan_.peaks)),
        totals_(at<float>(plan_.totals)),
        keys_(at<Word>(plan_.keys)),
        values_(at<Word>(plan_.values)),
        scores_(at<float>(plan_.scores)),
        weights_(at<Word>(plan_.weights)) {}

  void run() {
    load_rows();
    for (int i = 0; i < block_.num_columns; ++i) {
      const KeyColumn& column = block_.columns[i];
      const Bounds hull = hull_of(column);
      for (std::int64_t entry = hull.begin; entry < hull.end;) {
        const auto count = static_cast<int>(least(hull.end - entry, kTileKeys - num_keys_));
        add_piece(column, entry, count);
        entry += count;
        if (num_keys_ == kTileKeys || num_pieces_ == kMaxPieces) attend_tile();
      }
    }
    if (num_keys_ > 0) attend_tile();
    for (std::int64_t group = 0; group < plan_.num_groups; ++group) write(group);
  }

 private:
  template <typename X>
  X* at(std::int64_t offset) const {
    return reinterpret_cast<X*>(block_.scratch + offset);
  }

  std::int64_t query_of(std::int64_t row) const {
    return block_.first_query + least(row, num_rows_ - 1) / shape_.group;
  }

  /// Elements before a row of q and of out.
  std::int64_t offset_of(std::int64_t row) const {
    const std::int64_t head = block_.kv_head * shape_.group + row % shape_.group;
    return (query_of(row) * shape_.num_kv_heads * shape_.group + head) * d_;
  }

  /// Brings the rows into registers of words; rows behind the last repeat it.
  void load_rows() {
    for (std::int64_t group = 0; group < plan_.num_groups; ++group) {
      for (std::int64_t word = 0; word < num_words_; word += kLanes) {
        const std::int64_t count = least(kLanes, num_words_ - word);
        F lanes[kLanes];
        for (int lane = 0; lane < kLanes; ++lane) {
          const std::int64_t row = least(group * kLanes + lane, num_rows_ - 1);
          const T* x = static_cast<const T*>(block_.q) + offset_of(row) + word * P::kPer;
          lanes[lane] = count == kLanes ? P::load_words(x) : P::load_words_part(x, count);
        }
        S::transpose(lanes);
        for (std::int64_t i = 0; i < count; ++i)
          __builtin_memcpy(rows_ + ((group * num_words_) + word + i) * kLanes, &lanes[i],
                           sizeof(F));
      }
    }
    const std::int64_t num_sums = plan_.num_groups * kLanes;
    for (std::int64_t i = 0; i < num_sums * d_; ++i) sums_[i] = 0;
    for (std::int64_t i = 0; i < num_sums; ++i) peaks_[i] = kNoPeak, totals_[i] = 0;
    for (std::int64_t i = 0; i < d_; ++i) at<float>(plan_.zeros)[i] = 0;
  }

  /// All entries of a column that a query of the block sees.
  Bounds hull_of(const KeyColumn& column) const {
    Bounds hull{0, 0};
    for (std::int64_t i = 0; i < block_.num_queries; ++i) {
      const std::int64_t begin = column.begin[block_.first_query + i];
      const std::int64_t end = column.end[block_.first_query + i];
      if (begin >= end) continue;
      const bool is_first = hull.begin == hull.end;
      hull.begin = is_first ? begin : least(hull.begin, begin);
      hull.end = is_first ? end : most(hull.end, end);
    }
    return hull;
  }

  void add_piece(const KeyColumn& column, std::int64_t begin, int count) {
    pieces_[num_pieces_++] = {&column, begin, num_keys_, count};
    const KeySpan* span = column.spans;
    for (std::int64_t entry = begin; entry < begin + count; ++entry, ++num_keys_) {
      while (entry >= span->begin + span->len) ++span;
      const std::int64_t offset =
          block_.kv_head * span->head_stride + (entry - span->begin) * span->row_stride;
      key_rows_[num_keys_] = static_cast<const T*>(span->k) + offset;
      value_rows_[num_keys_] = static_cast<const T*>(span->v) + offset;
    }
  }

  /// All rows over the keys of the tile, which is empty afterwards.
  void attend_tile() {
    const auto padded = static_cast<int>(round_up(num_keys_, kStep));
    for (int j = num_keys_; j < padded; ++j)
      key_rows_[j] = value_rows_[j] = at<const T>(plan_.zeros);
    P::pack_keys(key_rows_, padded, d_, keys_);
    P::pack_values(value_rows_, padded, d_, values_);
    for (std::int64_t group = 0; group < plan_.num_groups; ++group) attend_group(group);
    num_keys_ = num_pieces_ = 0;
  }

  Bounds bounds_of(std::int64_t query, const Piece& piece) const {
    const auto inside = [&](std::int64_t entry) {
      return least(most(entry - piece.begin, 0), piece.count);
    };
    return {inside(piece.column->begin[query]), inside(piece.column->end[query])};
  }

  /// Marks what the rows of a register see of the tile.
  void mark_steps(std::int64_t group) {
    for (Step& step : steps_) step = Step::hidden;
    const std::int64_t first = query_of(group * kLanes), last = query_of((group + 1) * kLanes - 1);
    for (int i = 0; i < num_pieces_; ++i) {
      const Piece& piece = pieces_[i];
      Bounds hull{piece.count, 0}, common{0, piece.count};
      for (std::int64_t query = first; query <= last; ++query) {
        const Bounds bounds = bounds_of(query, piece);
        common = {most(common.begin, bounds.begin), least(common.end, bounds.end)};
        if (bounds.begin >= bounds.end) continue;
        hull = {least(hull.begin, bounds.begin), most(hull.end, bounds.end)};
      }
      if (hull.begin >= hull.end) continue;
      for (std::int64_t step = (piece.offset + hull.begin) / kStep;
           step * kStep < piece.offset + hull.end; ++step) {
        const std::int64_t begin = step * kStep - piece.offset;
        const bool is_open = common.begin <= begin && begin + kStep <= common.end;
        steps_[step] = is_open ? Step::open : Step::partial;
      }
    }
  }

  /// Calls visit(begin, end) for the runs of keys that are not hidden.
  template <typename Visit>
  void for_each_run(Visit visit) const {
    for (int step = 0; step < kNumSteps; ++step) {
      if (steps_[step] == Step::hidden) continue;
      const int first = step;
      while (step + 1 < kNumSteps && steps_[step + 1] != Step::hidden) ++step;
      visit(first * kStep, (step + 1) * kStep);
    }
  }

  void attend_group(std::int64_t group) {
    mark_steps(group);
    const Word* rows = rows_ + group * num_words_ * kLanes;
    for_each_run([&](int begin, int end) { P::scores(keys_, d_, begin, end, rows, scores_); });
    hide_scores(group);
    weigh(group);
    float* sums = sums_ + group * d_ * kLanes;
    for_each_run(
        [&](int begin, int end) { P::add_values(values_, d_, begin, end, weights_, sums); });
  }

  /// Scores of keys that a row may not see become -inf.
  void hide_scores(std::int64_t group) {
    for (int step = 0; step < kNumSteps; ++step) {
      if (steps_[step] != Step::partial) continue;
      const int begin = step * kStep, end = begin + kStep;
      for (int i = 0; i < num_pieces_; ++i) {
        const Piece& piece = pieces_[i];
        const auto from = static_cast<int>(most(begin, piece.offset));
        const auto to = static_cast<int>(least(end, piece.offset + piece.count));
        if (from < to) hide_in_piece(group, piece, from, to);
      }
      for (int j = static_cast<int>(most(begin, num_keys_)); j < end; ++j)
        S::store(scores_ + j * kLanes, S::set1(kMinusInf));
    }
  }

  void hide_in_piece(std::int64_t group, const Piece& piece, int from, int to) {
    alignas(64) float begins[kLanes], ends[kLanes];
    for (int lane = 0; lane < kLanes; ++lane) {
      const Bounds bounds = bounds_of(query_of(group * kLanes + lane), piece);
      begins[lane] = static_cast<float>(piece.offset + bounds.begin);
      ends[lane] = static_cast<float>(piece.offset + bounds.end);
    }
    const F low = S::load(begins), high = S::load(ends);
    for (int j = from; j < to; ++j) {
      float* scores = scores_ + j * kLanes;
      S::store(scores, S::keep_between(S::load(scores), S::set1(static_cast<float>(j)), low, high));
    }
  }

  /// Scores to weights relative to the new peaks; what was summed before shrinks with the old ones.
  void weigh(std::int64_t group) {
    float* const peaks = peaks_ + group * kLanes;
    float* const totals = totals_ + group * kLanes;
    const F old = S::load(peaks);
    F peaks_of[kChains] = {old, old, old, old};
    for_each_run([&](int begin, int end) {
      for (int j = begin; j < end; j += kChains) {
        for (int i = 0; i < kChains; ++i)
          peaks_of[i] = S::max(S::load(scores_ + (j + i) * kLanes), peaks_of[i]);
      }
    });
    const F peak = S::max(S::max(peaks_of[0], peaks_of[1]), S::max(peaks_of[2], peaks_of[3]));
    const F factor = S::set1(shape_.scale * kLog2E), shift = S::set1(0) - peak * factor;
    F total = S::load(totals);
    if (any_differs(old, peak)) {
      const F shrink = exp2_of<S>((old - peak) * factor);
      total = total * shrink;
      float* sums = sums_ + group * d_ * kLanes;
      for (std::int64_t c = 0; c < d_; ++c)
        S::store(sums + c * kLanes, S::load(sums + c * kLanes) * shrink);
    }
    F totals_of[kChains] = {total, S::set1(0), S::set1(0), S::set1(0)};
    for_each_run([&](int begin, int end) {
      for (int j = begin; j < end; j += kChains) {
        F weights[kChains];
        for (int i = 0; i < kChains; ++i) {
          weights[i] = exp2_of<S>(S::fma(S::load(scores_ + (j + i) * kLanes), factor, shift));
          totals_of[i] = totals_of[i] + weights[i];
        }
        for (int i = 0; i < kChains; i += P::kPer)
          P::store_weights(weights + i, weights_ + (j + i) / P::kPer * kLanes);
      }
    });
    total = (totals_of[0] + totals_of[1]) + (totals_of[2] + totals_of[3]);
    S::store(totals, total);
    S::store(peaks, peak);
  }

  static bool any_differs(F a, F b) {
    alignas(64) float differences[kLanes];
    S::store(differences, a - b);
    float sum = 0;
    for (const float x : differences) sum += x * x;
    return sum != 0;
  }

  /// Divides the sums of a register of rows and writes them.
  void write(std::int64_t group) {
    const std::int64_t first = group * kLanes;
    const auto num_rows = static_cast<int>(least(kLanes, num_rows_ - first));
    float shares[kLanes] = {};
    for (int lane = 0; lane < num_rows; ++lane) {
      const float peak = peaks_[first + lane], total = totals_[first + lane];
      const bool sees_none = peak == kNoPeak && total < 0.5F;  // and not NaN
      shares[lane] = sees_none ? 0 : 1 / total;
      const std::int64_t row = first + lane;
      block_.lse[offset_of(row) / d_] =
          sees_none ? kMinusInf : peak * shape_.scale + __builtin_logf(total);
    }
    const F share = S::load(shares);
    for (std::int64_t c = 0; c < d_; c += kLanes) {
      const std::int64_t count = least(kLanes, d_ - c);
      F lanes[kLanes];
      for (int i = 0; i < kLanes; ++i) {
        lanes[i] = i < count ? S::load(sums_ + (group * d_ + c + i) * kLanes) * share : S::set1(0);
      }
      S::transpose(lanes);
      for (int lane = 0; lane < num_rows; ++lane) {
        float values[kLanes];
        S::store(values, lanes[lane]);
        store_rounded(values, count, static_cast<T*>(block_.out) + offset_of(first + lane) + c);
      }
    }
  }

  const ContextBlock& block_;
  const ContextShape& shape_;
  std::int64_t d_, num_words_, num_rows_;
  ContextScratch<P> plan_;
  Word* rows_;     // [groups, words, lanes]
  float* sums_;    // [groups, d, lanes]
  float* peaks_;   // [groups, lanes] largest scores
  float* totals_;  // [groups, lanes] sums of weights
  Word* keys_;     // the tile, as pack_keys and pack_values make it
  Word* values_;
  float* scores_;  // [kTileKeys, lanes]
  Word* weights_;  // [kTileKeys / kPer, lanes]
  const T* key_rows_[kTileKeys];
  const T* value_rows_[kTileKeys];
  Piece pieces_[kMaxPieces];
  Step steps_[kNumSteps];
  int num_keys_ = 0, num_pieces_ = 0;
};

template <class P>
std::int64_t scratch_bytes_of(const ContextShape& shape, std::int64_t num_queries) {
  return ContextScratch<P>(shape, num_queries).end;
}

/// Keys in f32 or bf16.
template <class P>
void attend_floats(const ContextBlock& block) {
  if (block.shape->type == core::DataType::bf16) {
    ContextTask<P, Brain>(block).run();
  } else {
    ContextTask<P, float>(block).run();
  }
}

}  // namespace
}  // namespace gsa::kernels
