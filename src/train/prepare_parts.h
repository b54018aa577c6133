#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "train/prepare.h"
#include "train/spool.h"

namespace gsa::train {

/// Input error for options that no data can satisfy.
void check_options(const PrepareOptions& options);

/// JSON of the sources, as a shard's metadata hold it.
std::string sources_json(const std::vector<SourceReport>& sources);

/// Calls `work(i)` for every i below `count`, in threads of its own. Rethrows what failed for the
/// smallest i.
void for_each_in_threads(std::size_t count, int num_threads,
                         const std::function<void(std::size_t)>& work);

/// Counts a kept text's overlap.
void add_overlap(SourceReport& source, const Overlap& overlap);

/// A number below `size` that belongs to a seed and an item of an input.
std::uint64_t seeded_below(std::uint64_t seed, std::uint64_t item, std::uint64_t size);

}  // namespace gsa::train
