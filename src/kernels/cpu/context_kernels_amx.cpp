#include "kernels/cpu/context_pairs_avx512.h"

namespace gsa::kernels {
namespace {

// Tiles are named by number in the instructions themselves. (The compiler's own intrinsics do not
// tell it that memory is read and written.)
template <int Tile>
inline void load_tile(const void* memory, std::int64_t stride) {
  asm volatile("tileloadd (%0,%1,1), %%tmm%c2" : : "r"(memory), "r"(stride), "i"(Tile) : "memory");
}
template <int Tile>
inline void store_tile(void* memory, std::int64_t stride) {
  asm volatile("tilestored %%tmm%c2, (%0,%1,1)" : : "r"(memory), "r"(stride), "i"(Tile) : "memory");
}
template <int Tile>
inline void clear_tile() {
  asm volatile("tilezero %%tmm%c0" : : "i"(Tile));
}
/// C += A B: A [16, 32], B pairs of 32 rows [16, 16 pairs], C f32 [16, 16].
template <int C, int A, int B>
inline void multiply_tiles() {
  asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(C), "i"(A), "i"(B));
}

/// All eight tiles as 16 rows of 64 bytes, for one thread, until the end of its scope.
class TileUse {
 public:
  TileUse() {
    alignas(64) static constexpr std::uint8_t kConfig[64] = {
        1,  0,  0,  0,  0,  0,  0,  0,  0,  0, 0,  0, 0,  0, 0,  0,  // palette
        64, 0,  64, 0,  64, 0,  64, 0,  64, 0, 64, 0, 64, 0, 64, 0,  // bytes of a row
        0,  0,  0,  0,  0,  0,  0,  0,  0,  0, 0,  0, 0,  0, 0,  0,
        16, 16, 16, 16, 16, 16, 16, 16, 0,  0, 0,  0, 0,  0, 0,  0};  // rows
    asm volatile("ldtilecfg (%0)" : : "r"(kConfig) : "memory");
  }
  ~TileUse() { asm volatile("tilerelease"); }
  TileUse(const TileUse&) = delete;
  TileUse& operator=(const TileUse&) = delete;
};

/// With tiles of AMX.
struct TileProducts : PairWords {
  static constexpr int kStep = 32;
  static constexpr std::int64_t kRowBytes = 64;
  static constexpr std::int64_t kTileWords = 16 * 16;

  /// For 32 keys at a time [d, 16 words]: row c holds value c of all of them.
  static void pack_values(const Brain* const* rows, int count, std::int64_t d, Word* out) {
    for (int j = 0; j < count; j += kStep) {
      for (std::int64_t c = 0; c < d; c += 16, out += kTileWords) {
        __m512 pairs[16];
        for (int i = 0; i < 16; ++i) {
          pairs[i] = _mm512_castsi512_ps(interleave(rows[j + 2 * i] + c, rows[j + 2 * i + 1] + c));
        }
        S::transpose(pairs);
        for (int i = 0; i < 16; ++i) _mm512_storeu_ps(out + i * 16, pairs[i]);
      }
    }
  }

  static void scores(const Word* keys, std::int64_t d, int begin, int end, const Word* rows,
                     float* out) {
    const std::int64_t num_words = d / 2, key_bytes = d * 2;
    for (int j = begin; j < end; j += kStep) {
      const Word* first = keys + j * num_words;
      const Word* second = first + 16 * num_words;
      clear_tile<0>();
      clear_tile<1>();
      for (std::int64_t word = 0; word < num_words; word += 16) {
        load_tile<2>(rows + word * 16, kRowBytes);
        load_tile<3>(first + word, key_bytes);
        load_tile<4>(second + word, key_bytes);
        multiply_tiles<0, 3, 2>();
        multiply_tiles<1, 4, 2>();
      }
      store_tile<0>(out + j * 16, kRowBytes);
      store_tile<1>(out + (j + 16) * 16, kRowBytes);
    }
  }

  static void add_values(const Word* values, std::int64_t d, int begin, int end,
                         const Word* weights, float* sums) {
    const std::int64_t step_words = d * 16;
    for (std::int64_t c = 0; c < d; c += 32) {
      float* low = sums + c * 16;
      float* high = low + kTileWords;
      load_tile<0>(low, kRowBytes);
      load_tile<1>(high, kRowBytes);
      for (int j = begin; j < end; j += kStep) {
        const Word* tile = values + j / kStep * step_words + c * 16;
        load_tile<2>(weights + j / 2 * 16, kRowBytes);
        load_tile<3>(tile, kRowBytes);
        load_tile<4>(tile + kTileWords, kRowBytes);
        multiply_tiles<0, 3, 2>();
        multiply_tiles<1, 4, 2>();
      }
      store_tile<0>(low, kRowBytes);
      store_tile<1>(high, kRowBytes);
    }
  }
};

void attend(const ContextBlock& block) {
  const TileUse use;
  ContextTask<TileProducts, Brain>(block).run();
}

}  // namespace

const ContextKernel context_amx{scratch_bytes_of<TileProducts>, attend};

}  // namespace gsa::kernels
