#pragma once

#include "kernels/cpu/decode_kernels.h"
#include "kernels/cpu/floats_inline.h"

// The decode kernels over the registers of one instruction set, `S`: each compiles them with its
// own flags, so everything is in an unnamed namespace and nothing is of the standard library.
// Besides what floats_inline.h tells:
//   S::kDims        registers of an accumulator row that fit beside four heads
//   kIsOwn<T>       S has score_rows and add_all_values of its own for keys of type T; they take q
//                   as prepare_q makes it and leave accumulators in an order that restore_order
//                   undoes
namespace gsa::kernels {
namespace {

// Keys of a tile, whose successor is fetched into the second-level cache meanwhile. Measured where
// keys come from memory (docs/performance.md): smaller tiles of attention fetch too late.
constexpr int kTileKeys = 256;
constexpr int kScoreTileKeys = 64;
constexpr int kMaxHeads = 4;  // heads that share one pass over a tile

/// Addresses of the rows of a tile; behind its keys the last is repeated.
template <typename T>
struct TileRows {
  const T* k[kTileKeys + 1];
  const T* v[kTileKeys + 1];
};

/// Goes through the keys of runs in tiles.
template <typename T>
class TileReader {
 public:
  TileReader(const KeyRun* runs, std::int64_t begin, std::int64_t head_dim)
      : run_(runs), offset_(begin), head_dim_(head_dim) {
    while (offset_ >= run_->count) offset_ -= (run_++)->count;
  }

  void fill(TileRows<T>& tile, int num_keys) {
    for_each_part(num_keys, [&](int filled, int count) {
      list_rows(run_->k, count, tile.k + filled);
      list_rows(run_->v, count, tile.v + filled);
    });
    for (int j = num_keys; j <= kTileKeys; ++j) {
      tile.k[j] = tile.k[num_keys - 1];
      tile.v[j] = tile.v[num_keys - 1];
    }
  }

  /// Keys alone.
  void fill_keys(const T** keys, int num_keys) {
    for_each_part(num_keys,
                  [&](int filled, int count) { list_rows(run_->k, count, keys + filled); });
  }

 private:
  template <typename F>
  void for_each_part(int num_keys, F part) {
    for (int filled = 0; filled < num_keys;) {
      if (offset_ == run_->count) ++run_, offset_ = 0;
      const std::int64_t rest = run_->count - offset_;
      const int count = rest < num_keys - filled ? static_cast<int>(rest) : num_keys - filled;
      part(filled, count);
      filled += count;
      offset_ += count;
    }
  }

  void list_rows(const void* rows, int count, const T** out) const {
    const T* row = static_cast<const T*>(rows) + offset_ * head_dim_;
    for (int i = 0; i < count; ++i) out[i] = row + i * head_dim_;
  }

  const KeyRun* run_;
  std::int64_t offset_;
  std::int64_t head_dim_;
};

/// Asks for a row before it is needed: into the second-level cache, since a tile fills the first.
template <typename T>
inline void prefetch_row(const T* row, std::int64_t head_dim) {
  for (std::int64_t c = 0; c < head_dim; c += 64 / static_cast<std::int64_t>(sizeof(T)))
    __builtin_prefetch(row + c, 0, 2);
}

/// Scores of R query rows and the first `num_keys` keys of a list, four keys at a time.
///   q [R, head_dim], out[h * stride + j]; ahead: rows to be asked for meanwhile, as many, or null
template <class S, typename T, int R>
inline void score_rows(const float* q, std::int64_t head_dim, const T* const* keys, int num_keys,
                       const T* const* ahead, float* out, std::int64_t stride) {
  using F = typename S::F;
  for (int j = 0; j < num_keys; j += 4) {
    const T* k[4];
    for (int i = 0; i < 4 && ahead != nullptr; ++i) prefetch_row(ahead[j + i], head_dim);
    for (int i = 0; i < 4; ++i) k[i] = keys[j + i < num_keys ? j + i : num_keys - 1];
    F sums[R][4];
    for (int h = 0; h < R; ++h) {
      for (int i = 0; i < 4; ++i) sums[h][i] = S::set1(0);
    }
    std::int64_t c = 0;
    for (; c + S::kLanes <= head_dim; c += S::kLanes) {
      F values[4];
      for (int i = 0; i < 4; ++i) values[i] = S::load(k[i] + c);
      for (int h = 0; h < R; ++h) {
        const F query = S::load(q + h * head_dim + c);
        for (int i = 0; i < 4; ++i) sums[h][i] = S::fma(query, values[i], sums[h][i]);
      }
    }
    if (c < head_dim) {
      const int rest = static_cast<int>(head_dim - c);
      for (int h = 0; h < R; ++h) {
        const F query = S::load_part(q + h * head_dim + c, rest);
        for (int i = 0; i < 4; ++i)
          sums[h][i] = S::fma(query, S::load_part(k[i] + c, rest), sums[h][i]);
      }
    }
    for (int h = 0; h < R; ++h) {
      float four[4];
      S::sum_four(sums[h], four);
      for (int i = 0; i < 4 && j + i < num_keys; ++i) out[h * stride + j + i] = four[i];
    }
  }
}

/// Scores of a tile to weights relative to the new peak. Returns by what earlier sums shrink.
///   scores [kTileKeys]; zeros behind num_keys in the last register
template <class S>
inline float weigh(float* scores, int num_keys, float scale, float& peak, float& sum) {
  using F = typename S::F;
  int padded = num_keys;
  for (; padded % S::kLanes != 0; ++padded) scores[padded] = kMinusInf;
  F peaks = S::load(scores);
  for (int j = S::kLanes; j < padded; j += S::kLanes) peaks = S::max(peaks, S::load(scores + j));
  const float highest = S::max_of(peaks), old = peak;
  if (highest > peak) peak = highest;
  const F factor = S::set1(scale * kLog2E), shift = S::set1(-peak * scale * kLog2E);
  const float shrink =
      old == kMinusInf ? 0 : S::first(exp2_of<S>(S::fma(S::set1(old), factor, shift)));
  F sums = S::set1(0);
  for (int j = 0; j < padded; j += S::kLanes) {
    const F weights = exp2_of<S>(S::fma(S::load(scores + j), factor, shift));
    S::store(scores + j, weights);
    sums = sums + weights;
  }
  for (int j = num_keys; j < padded; ++j) scores[j] = 0;
  sum = sum * shrink + S::sum_of(sums);
  return shrink;
}

/// Adds weighted values to C registers of R accumulator rows, after shrinking them.
///   weights [R, kTileKeys], sums [R, padded]
template <class S, typename T, int R, int C>
inline void add_values(const float* weights, const T* const* values, int num_keys,
                       const T* const* ahead, std::int64_t c, std::int64_t head_dim,
                       const float* shrink, float* sums, std::int64_t padded) {
  using F = typename S::F;
  F acc[R][C];
  for (int h = 0; h < R; ++h) {
    const F factor = S::set1(shrink[h]);
    for (int i = 0; i < C; ++i) acc[h][i] = factor * S::load(sums + h * padded + c + i * S::kLanes);
  }
  const int last = static_cast<int>(head_dim - c) - (C - 1) * S::kLanes;  // values of the last one
  const auto pass = [&](auto load_last) {
    for (int j = 0; j < num_keys; ++j) {
      F weight[R];
      for (int h = 0; h < R; ++h) weight[h] = S::set1(weights[h * kTileKeys + j]);
      if (ahead != nullptr) prefetch_row(ahead[j], head_dim);
      const T* row = values[j] + c;
      for (int i = 0; i < C; ++i) {
        const F value = i + 1 < C ? S::load(row + i * S::kLanes) : load_last(row + i * S::kLanes);
        for (int h = 0; h < R; ++h) acc[h][i] = S::fma(weight[h], value, acc[h][i]);
      }
    }
  };
  if (last >= S::kLanes) {
    pass([](const T* row) { return S::load(row); });
  } else {
    pass([last](const T* row) { return S::load_part(row, last); });
  }
  for (int h = 0; h < R; ++h) {
    for (int i = 0; i < C; ++i) S::store(sums + h * padded + c + i * S::kLanes, acc[h][i]);
  }
}

template <class S, typename T, int R>
inline void add_all_values(const float* weights, const T* const* values, int num_keys,
                           const T* const* ahead, std::int64_t head_dim, const float* shrink,
                           float* sums, std::int64_t padded) {
  constexpr int kDims = S::kDims;
  std::int64_t c = 0;
  for (; c + kDims * S::kLanes <= head_dim; c += kDims * S::kLanes, ahead = nullptr)
    add_values<S, T, R, kDims>(weights, values, num_keys, ahead, c, head_dim, shrink, sums, padded);
  for (; c < head_dim; c += S::kLanes, ahead = nullptr)
    add_values<S, T, R, 1>(weights, values, num_keys, ahead, c, head_dim, shrink, sums, padded);
}

/// R heads of the group, from `first` on, over one tile.
template <class S, typename T, int R>
inline void attend_tile(const PieceArgs& args, std::int64_t first, const TileRows<T>& tile,
                        int num_keys, const TileRows<T>& next) {
  const T* const* next_k = first == 0 ? next.k : nullptr;  // once for all heads
  const T* const* next_v = first == 0 ? next.v : nullptr;
  const std::int64_t d = args.head_dim, padded = padded_dim(d);
  float* sums = args.sums_of_values + first * padded;
  alignas(64) float weights[R * kTileKeys];
  float shrink[R];
  if constexpr (S::template kIsOwn<T>) {
    S::template score_rows<R>(args.own_q + first * padded, d, tile.k, num_keys, next_k, weights);
  } else {
    score_rows<S, T, R>(args.q + first * d, d, tile.k, num_keys, next_k, weights, kTileKeys);
  }
  for (int h = 0; h < R; ++h) {
    shrink[h] = weigh<S>(weights + h * kTileKeys, num_keys, args.scale, args.peaks[first + h],
                         args.sums[first + h]);
  }
  if constexpr (S::template kIsOwn<T>) {
    S::template add_all_values<R>(weights, tile.v, num_keys, next_v, d, shrink, sums);
  } else {
    add_all_values<S, T, R>(weights, tile.v, num_keys, next_v, d, shrink, sums, padded);
  }
}

template <class S, typename T>
void attend_piece_of(const PieceArgs& args) {
  const std::int64_t padded = padded_dim(args.head_dim);
  for (std::int64_t i = 0; i < args.group * padded; ++i) args.sums_of_values[i] = 0;
  for (std::int64_t h = 0; h < args.group; ++h) args.peaks[h] = kMinusInf, args.sums[h] = 0;
  TileReader<T> reader(args.runs, args.begin, args.head_dim);
  TileRows<T> tiles[2];  // the one at work and the one that is fetched meanwhile
  const auto keys_from = [&](std::int64_t begin) {
    const std::int64_t rest = args.end - begin;
    return rest < kTileKeys ? static_cast<int>(rest) : kTileKeys;
  };
  reader.fill(tiles[0], keys_from(args.begin));
  int current = 0;
  for (std::int64_t begin = args.begin; begin < args.end; begin += kTileKeys, current ^= 1) {
    const int num_keys = keys_from(begin), num_next = keys_from(begin + kTileKeys);
    const TileRows<T>& tile = tiles[current];
    TileRows<T>& next = tiles[num_next > 0 ? current ^ 1 : current];
    if (num_next > 0) reader.fill(next, num_next);
    for (std::int64_t h = 0; h < args.group; h += kMaxHeads) {
      switch (args.group - h) {
        case 1:
          attend_tile<S, T, 1>(args, h, tile, num_keys, next);
          break;
        case 2:
          attend_tile<S, T, 2>(args, h, tile, num_keys, next);
          break;
        case 3:
          attend_tile<S, T, 3>(args, h, tile, num_keys, next);
          break;
        default:
          attend_tile<S, T, kMaxHeads>(args, h, tile, num_keys, next);
          break;
      }
    }
  }
  if constexpr (S::template kIsOwn<T>) {
    for (std::int64_t h = 0; h < args.group; ++h)
      S::restore_order(args.sums_of_values + h * padded, padded);
  }
}

template <class S>
void attend_piece(const PieceArgs& args) {
  switch (args.type) {
    case core::DataType::f16:
      return attend_piece_of<S, Half>(args);
    case core::DataType::bf16:
      return attend_piece_of<S, Brain>(args);
    default:
      return attend_piece_of<S, float>(args);
  }
}

template <class S>
void prepare(core::DataType type, const float* q, std::int64_t head_dim, float* out) {
  if constexpr (S::template kIsOwn<Brain>) {
    if (type == core::DataType::bf16) S::prepare_q(q, head_dim, out);
  }
}

/// Goes through the keys of runs in tiles: tile(begin, num_keys, rows, ahead), where `ahead` are
/// rows of the next tile to be asked for meanwhile, as many, or null.
template <typename T, typename F>
inline void for_each_tile(const ScoreArgs& args, F tile) {
  const T* rows[2][kScoreTileKeys];
  TileReader<T> reader(args.runs, 0, args.head_dim);
  const auto keys_from = [&](std::int64_t begin) {
    const std::int64_t rest = args.num_keys - begin;
    return rest < kScoreTileKeys ? static_cast<int>(rest) : kScoreTileKeys;
  };
  reader.fill_keys(rows[0], keys_from(0));
  int current = 0;
  for (std::int64_t begin = 0; begin < args.num_keys; begin += kScoreTileKeys, current ^= 1) {
    const int num_next = keys_from(begin + kScoreTileKeys);
    const T** const next = rows[current ^ 1];
    if (num_next > 0) reader.fill_keys(next, num_next);
    tile(begin, keys_from(begin), rows[current], num_next == kScoreTileKeys ? next : nullptr);
  }
}

template <class S, typename T>
void score_of(const ScoreArgs& args) {
  const std::int64_t d = args.head_dim;
  for_each_tile<T>(
      args, [&](std::int64_t begin, int num_keys, const T* const* rows, const T* const* ahead) {
        for (std::int64_t h = 0; h < args.num_queries; h += kMaxHeads, ahead = nullptr) {
          const float* q = args.q + h * d;
          float* out = args.out + h * args.stride + begin;
          switch (args.num_queries - h) {
            case 1:
              score_rows<S, T, 1>(q, d, rows, num_keys, ahead, out, args.stride);
              break;
            case 2:
              score_rows<S, T, 2>(q, d, rows, num_keys, ahead, out, args.stride);
              break;
            case 3:
              score_rows<S, T, 3>(q, d, rows, num_keys, ahead, out, args.stride);
              break;
            default:
              score_rows<S, T, kMaxHeads>(q, d, rows, num_keys, ahead, out, args.stride);
              break;
          }
        }
      });
}

template <class S>
void score(const ScoreArgs& args) {
  switch (args.type) {
    case core::DataType::f16:
      return score_of<S, Half>(args);
    case core::DataType::bf16:
      return score_of<S, Brain>(args);
    default:
      return score_of<S, float>(args);
  }
}

/// Integers in the order of the floats; -0 counts as 0.
inline std::int32_t sortable(float x) {
  const std::int32_t bits = __builtin_bit_cast(std::int32_t, x + 0.0F);
  return bits ^ ((bits >> 31) & 0x7FFFFFFF);
}

inline std::int64_t count_from(const std::int32_t* keys, std::int64_t count, std::int32_t least) {
  std::int32_t number = 0;  // fewer than 2^31 keys fit any cache of gists
  for (std::int64_t i = 0; i < count; ++i) number += keys[i] >= least ? 1 : 0;
  return number;
}

/// Bisects for a bound that exactly k keys reach; where equal keys stand across it, takes the first
/// of them.
std::int64_t select_top(const float* scores, std::int64_t count, std::int64_t k, std::int32_t* keys,
                        std::int32_t* ids) {
  std::int32_t low = 0x7FFFFFFF, high = -0x7FFFFFFF - 1;
  for (std::int64_t i = 0; i < count; ++i) {
    const std::int32_t key = sortable(scores[i]);
    keys[i] = key;
    low = key < low ? key : low;
    high = key > high ? key : high;
  }
  const std::int32_t none = sortable(kMinusInf);
  if (low <= none) low = none + 1;
  // At least k keys, or all there are, reach `low`; fewer than k exceed `high`.
  std::int64_t reaching = -1;  // `low`, as far as known
  while (reaching != k && low < high) {
    const auto middle =
        static_cast<std::int32_t>((static_cast<std::int64_t>(low) + high + 1) >> 1);  // above low
    const std::int64_t number = count_from(keys, count, middle);
    if (number >= k) {
      low = middle;
      reaching = number;
    } else {
      high = middle - 1;
    }
  }
  if (high < low) return 0;
  std::int64_t equal_left = k;  // keys equal to `low` that may be taken
  if (reaching != k) equal_left = k - (low == 0x7FFFFFFF ? 0 : count_from(keys, count, low + 1));
  std::int64_t taken = 0;
  constexpr int kBlock = 16;
  for (std::int64_t begin = 0; begin < count && taken < k; begin += kBlock) {
    const std::int64_t end = begin + kBlock < count ? begin + kBlock : count;
    std::int32_t any = 0;
    for (std::int64_t i = begin; i < end; ++i) any |= keys[i] >= low ? 1 : 0;
    if (any == 0) continue;
    for (std::int64_t i = begin; i < end && taken < k; ++i) {
      if (keys[i] < low || (keys[i] == low && equal_left-- <= 0)) continue;
      ids[taken++] = static_cast<std::int32_t>(i);
    }
  }
  return taken;
}

}  // namespace
}  // namespace gsa::kernels
