#pragma once

#include <ATen/ops/randn.h>

#include "attention/kv_store.h"
#include "core/rng.h"

namespace gsa::attention {

/// Keys and values of `len` entries in one to three spans.
inline KvArena random_arena(core::Rng& rng, std::int64_t num_kv_heads, std::int64_t len,
                            std::int64_t d) {
  KvArena arena;
  std::int64_t begin = 0;
  while (begin < len) {
    const std::int64_t rest = len - begin;
    const bool takes_all = arena.spans.size() == 2 || rng.below(2) == 0;
    const std::int64_t count = takes_all ? rest : 1 + rng.below(static_cast<std::uint32_t>(rest));
    // Like a store's buffer: room behind the live entries.
    const auto buffer = [&] {
      return at::randn({num_kv_heads, count + rng.below(3), d}).narrow(1, 0, count);
    };
    arena.spans.push_back({buffer(), buffer(), begin});
    begin += count;
  }
  return arena;
}

}  // namespace gsa::attention
