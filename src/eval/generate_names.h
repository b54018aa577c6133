#pragma once

#include <array>
#include <string_view>

namespace gsa::eval {

/// Words of which generated tasks make the names of what is asked for ("calm-otter").
inline constexpr std::array<std::string_view, 64> name_adjectives = {
    "amber",  "ancient", "bitter", "bold",   "brave",  "brief",  "bright", "brisk",
    "broad",  "calm",    "clever", "cold",   "cosy",   "crisp",  "curly",  "daring",
    "dim",    "dry",     "eager",  "early",  "fair",   "faint",  "fancy",  "fierce",
    "fond",   "frosty",  "gentle", "giant",  "glad",   "golden", "grand",  "grey",
    "happy",  "hasty",   "hidden", "hollow", "humble", "icy",    "idle",   "jolly",
    "keen",   "lazy",    "little", "lively", "lonely", "loud",   "lucky",  "merry",
    "mighty", "misty",   "modest", "muddy",  "narrow", "noble",  "odd",    "pale",
    "plain",  "proud",   "quick",  "quiet",  "rapid",  "rusty",  "silent", "sturdy"};
inline constexpr std::array<std::string_view, 64> name_nouns = {
    "acorn",  "anchor",  "apple",   "arrow",  "badger",  "barn",   "basket",  "beacon",
    "bell",   "bridge",  "bucket",  "candle", "canoe",   "castle", "cedar",   "cherry",
    "cliff",  "clock",   "cloud",   "comet",  "compass", "coral",  "cottage", "crane",
    "drum",   "eagle",   "engine",  "falcon", "feather", "fern",   "fiddle",  "forest",
    "garden", "glacier", "hammer",  "harbor", "hedge",   "heron",  "island",  "kettle",
    "ladder", "lantern", "lemon",   "lizard", "maple",   "marble", "meadow",  "mirror",
    "mitten", "oak",     "orchard", "otter",  "paddle",  "pebble", "pepper",  "pigeon",
    "planet", "pond",    "quilt",   "raven",  "river",   "saddle", "teapot",  "walnut"};

}  // namespace gsa::eval
