#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "attention/chunk_keys.h"
#include "attention/kv_store.h"
#include "attention/layout.h"
#include "attention/visible.h"

namespace gsa::attention {

/// How much of the context a selecting query unfolds (method §3.6).
struct Budget {
  enum class Kind { ratio, tokens, top_p };
  Kind kind = Kind::ratio;
  std::int64_t ratio = 0;   ///< 0: product of the chunk sizes
  std::int64_t tokens = 0;  ///< raw tokens per KV head and layer
  double top_p = 0;
};

/// A policy as the user writes it: `NAME[@CHUNKS][:key=value]...`, e.g.
/// `gsa@4-4:tokens=1024:mode=group`.
struct PolicySpec {
  enum class Mode { head, group };
  enum class Read { gist, full };
  enum class Gists { selected, all, hidden };
  enum class Route { gist, mean, both, oracle };
  enum class Unfold { chunk, next, both };

  std::string name;      ///< one of `known_names`
  LayoutOptions layout;  ///< chunk sizes empty for policies without chunks
  Budget budget;
  Mode mode = Mode::head;
  Read read = Read::gist;              ///< how the context is read
  Gists gists = Gists::selected;       ///< gists=all is the published `all_gists` ablation
  Route route = Route::gist;           ///< what a chunk is scored by
  Unfold unfold = Unfold::chunk;       ///< which neighbours are selected with a chunk
  std::vector<double> layer_shares;    ///< of the budget, per layer; 1 beyond the last
  std::uint64_t seed = 0;              ///< random
  std::int64_t dense_layers = 0;       ///< quest: first layers that attend in full
  std::int64_t window = 0;             ///< snapkv: queries at the end of a prompt that vote
  std::optional<std::string> adapter;  ///< adapter=NAME|none; unset: the program's --adapter
  /// Of policies that live on trained gists: keys that `with_defaults` leaves alone.
  std::set<std::string, std::less<>> settled;

  /// Input error that names the bad part and what is allowed.
  static PolicySpec parse(std::string_view text);
  /// Canonical form: keys that have their built-in value are left out unless they are settled.
  /// parse(to_string()) gives the same spec.
  std::string to_string() const;

  /// Of `key=value:key=value...` what gists are trained for, in canonical form: how they are used
  /// (mode, read, gists, route, unfold, layers) and laid out (local, sinks, cut), not how much is
  /// read. Input error for what are no keys of gsa.
  static std::string trained_keys(std::string_view keys);
  /// This policy on gists that were trained with such keys: these replace the built-in values of
  /// what is not settled, if the policy takes them and they do not contradict what is. Of the
  /// settled keys with a built-in value only those stay that would be replaced otherwise, so that
  /// the canonical form says what these gists are used for and no more. Doing it again changes
  /// nothing. Policies that do not live on trained gists stay as they are.
  PolicySpec with_defaults(std::string_view keys) const;

  /// The given ratio, or the default: the product of chunk sizes, 8 for policies that keep tokens;
  /// 1 for full. 0 where the notion does not apply (tokens, top_p, window).
  std::int64_t nominal_ratio() const;
  /// Factor of the budget in a layer.
  double layer_share(std::int64_t layer) const {
    return layer < std::ssize(layer_shares) ? layer_shares[layer] : 1;
  }
  /// Parsed names with one line of help each, for usage texts.
  static const std::vector<std::pair<std::string, std::string>>& known_names();
  /// Keys allowed after a name with one line of help each.
  static const std::vector<std::pair<std::string, std::string>>& known_keys();
};

/// What a policy may look at when it selects.
struct SelectInput {
  std::int64_t layer = 0;
  at::Tensor q;  // [T, H, d] after RoPE
  const KvArenas* arenas = nullptr;
  const Layout* layout = nullptr;
  std::shared_ptr<const RangeTable> ranges;  ///< static part for these queries
  double scale = 1;                          ///< of the attention (top_p needs it)
};

/// A policy decides what is visible, nothing else: how context is read, what a suffix query always
/// sees, what it selects. One instance serves one sequence (it may keep state per layer, e.g.
/// chunk keys). A suffix is prompts and the rows that are generated behind each of them; the last
/// row of a prompt gives the first token and counts as generated.
class Policy {
 public:
  virtual ~Policy() = default;

  /// Rule under which context tokens of a level are read.
  virtual StaticRule context_rule(int level) const = 0;
  /// Static part for suffix queries in a layer.
  virtual StaticRule suffix_rule(std::int64_t layer) const = 0;
  /// Whether suffix queries of a layer select.
  virtual bool selects(std::int64_t layer) const = 0;
  /// Fills the selected ids of `visible`. Returns the key vectors that were scored per query and KV
  /// head and are not attended, int64 [T, H_kv] (each counts half a key: method §3.6), or an
  /// undefined tensor for none.
  virtual at::Tensor select(const SelectInput& input, VisibleSet& visible) = 0;
  /// Whether the context gets gist tokens.
  virtual bool uses_gists() const = 0;
  /// Whether the part of the context that an answer sees depends on the question.
  virtual bool is_query_aware() const = 0;

  /// Whether `observe` is to be called while the context is read.
  virtual bool observes_context() const { return false; }
  /// Attention that raw keys received from raw rows of the context in a layer, f32 [H_kv, n]: see
  /// `attention_mass`. Called for one slice of the context after the other.
  virtual void observe(std::int64_t layer, const at::Tensor& mass) { (void)layer, (void)mass; }
  /// Keys that chunks are scored by in place of their gists' keys; nullptr: there are none.
  virtual const ChunkKeys* chunk_keys() const { return nullptr; }
  /// Computes those of a layer that are missing.
  virtual void update_chunk_keys(std::int64_t layer, const KvArenas& arenas, const Layout& layout) {
    (void)layer, (void)arenas, (void)layout;
  }
  /// Goes on behind a context that `reader` has read, with what it observed or computed.
  virtual void follow(const Policy& reader) { (void)reader; }

  /// Suffix rows to come are a prompt, until `end_prompt`.
  virtual void begin_prompt() {}
  virtual void end_prompt() {}
  /// Forgets state about entries beyond the first `num_raw` raw tokens (a session dropped its
  /// suffix).
  virtual void truncate(std::int64_t num_raw) { (void)num_raw; }

  const PolicySpec& spec() const { return spec_; }

 protected:
  explicit Policy(PolicySpec spec) : spec_(std::move(spec)) {}

 private:
  PolicySpec spec_;
};

/// Makes the policy that a spec names.
std::unique_ptr<Policy> make_policy(const PolicySpec& spec);

}  // namespace gsa::attention
