#include "text/bpe.h"

#include <algorithm>
#include <bit>
#include <cstddef>
#include <functional>
#include <queue>
#include <utility>

#include "text/unicode.h"

namespace gsa::text {
namespace {

// Up to this many symbols, scanning all pairs for the best is faster than a heap.
constexpr std::size_t max_short_len = 48;

std::uint64_t make_pair_key(std::int32_t left, std::int32_t right) {
  return std::uint64_t{static_cast<std::uint32_t>(left)} << 32 | static_cast<std::uint32_t>(right);
}

}  // namespace

Bpe::Bpe(const std::array<std::int32_t, 256>& byte_ids, std::span<const Merge> merges,
         std::span<const std::uint32_t> ranks,
         std::unordered_map<char32_t, std::int32_t> character_ids)
    : byte_ids_(byte_ids), character_ids_(std::move(character_ids)) {
  const auto num_slots = std::bit_ceil(std::max<std::size_t>(16, merges.size() * 3 / 2));
  hash_shift_ = 64 - std::countr_zero(num_slots);
  table_.resize(num_slots);
  for (std::size_t i = 0; i < merges.size(); ++i) {
    const auto pair = make_pair_key(merges[i].left, merges[i].right);
    const auto rank = ranks.empty() ? static_cast<std::uint32_t>(i) : ranks[i];
    table_[slot_of(pair)] = {pair, rank, merges[i].result};
  }
}

/// The slot that holds a pair, or the free one where it would go.
std::size_t Bpe::slot_of(std::uint64_t pair) const {
  auto slot = static_cast<std::size_t>((pair * 0x9e3779b97f4a7c15u) >> hash_shift_);
  while (table_[slot].pair != pair && table_[slot].pair != no_pair) {
    slot = (slot + 1) & (table_.size() - 1);
  }
  return slot;
}

Bpe::Entry Bpe::find_merge(std::int32_t left, std::int32_t right) const {
  return table_[slot_of(make_pair_key(left, right))];
}

/// Hands over the tokens that the characters of a piece, or their bytes, have by themselves.
void Bpe::for_each_symbol(std::string_view piece, auto&& emit) const {
  const auto emit_bytes = [&](std::string_view bytes) {
    for (const unsigned char byte : bytes) {
      if (byte_ids_[byte] >= 0) emit(byte_ids_[byte]);
    }
  };
  if (character_ids_.empty()) {
    emit_bytes(piece);
    return;
  }
  while (!piece.empty()) {
    const auto character = piece.substr(0, first_char_len(piece));
    piece.remove_prefix(character.size());
    const auto entry = character_ids_.find(first_code_point(character));
    if (entry == character_ids_.end()) {
      emit_bytes(character);
    } else {
      emit(entry->second);
    }
  }
}

void Bpe::encode(std::string_view piece, std::vector<std::int32_t>& ids) const {
  if (piece.size() <= max_short_len) {
    std::array<std::int32_t, max_short_len> symbols;
    std::size_t len = 0;
    for_each_symbol(piece, [&](std::int32_t id) { symbols[len++] = id; });
    merge_short(std::span(symbols).first(len), ids);
    return;
  }
  std::vector<std::int32_t> symbols;
  symbols.reserve(piece.size());
  for_each_symbol(piece, [&](std::int32_t id) { symbols.push_back(id); });
  merge_long(symbols, ids);
}

void Bpe::merge_short(std::span<std::int32_t> symbols, std::vector<std::int32_t>& ids) const {
  auto len = symbols.size();
  std::array<Entry, max_short_len> merges;  // merges[i]: of symbols i and i + 1
  for (std::size_t i = 0; i + 1 < len; ++i) merges[i] = find_merge(symbols[i], symbols[i + 1]);
  while (len > 1) {
    std::size_t best = 0;
    for (std::size_t i = 1; i + 1 < len; ++i) {
      if (merges[i].rank < merges[best].rank) best = i;
    }
    if (merges[best].rank == no_rank) break;
    symbols[best] = merges[best].result;
    std::copy(symbols.begin() + best + 2, symbols.begin() + len, symbols.begin() + best + 1);
    if (best + 2 < len) {
      std::copy(merges.begin() + best + 2, merges.begin() + len - 1, merges.begin() + best + 1);
    }
    --len;
    if (best > 0) merges[best - 1] = find_merge(symbols[best - 1], symbols[best]);
    if (best + 1 < len) merges[best] = find_merge(symbols[best], symbols[best + 1]);
  }
  ids.insert(ids.end(), symbols.begin(), symbols.begin() + len);
}

void Bpe::merge_long(std::span<const std::int32_t> symbols, std::vector<std::int32_t>& ids) const {
  struct Symbol {
    std::int32_t id;  // -1: merged into the one before
    std::int32_t previous;
    std::int32_t next;
  };
  struct Candidate {
    std::uint32_t rank;
    std::int32_t left;   // index of the left symbol
    std::uint64_t pair;  // what the symbols were when the candidate was made
    std::int32_t result;
    bool operator>(const Candidate& other) const {
      return rank != other.rank ? rank > other.rank : left > other.left;
    }
  };

  const auto len = static_cast<std::int32_t>(symbols.size());
  std::vector<Symbol> list(symbols.size());
  for (std::int32_t i = 0; i < len; ++i) list[i] = {symbols[i], i - 1, i + 1 < len ? i + 1 : -1};

  std::priority_queue<Candidate, std::vector<Candidate>, std::greater<>> queue;
  const auto propose = [&](std::int32_t left) {
    if (left < 0 || list[left].next < 0) return;
    const auto right_id = list[list[left].next].id;
    const auto merge = find_merge(list[left].id, right_id);
    if (merge.rank == no_rank) return;
    queue.push({merge.rank, left, make_pair_key(list[left].id, right_id), merge.result});
  };
  for (std::int32_t i = 0; i + 1 < len; ++i) propose(i);

  while (!queue.empty()) {
    const auto top = queue.top();
    queue.pop();
    auto& left = list[top.left];
    if (left.id < 0 || left.next < 0) continue;
    auto& right = list[left.next];
    if (make_pair_key(left.id, right.id) != top.pair) continue;
    left.id = top.result;
    left.next = right.next;
    right.id = -1;
    if (left.next >= 0) list[left.next].previous = top.left;
    propose(left.previous);
    propose(top.left);
  }
  for (std::int32_t i = 0; i >= 0 && i < len; i = list[i].next) ids.push_back(list[i].id);
}

}  // namespace gsa::text
