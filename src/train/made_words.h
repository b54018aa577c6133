#pragma once

#include <array>
#include <string_view>

namespace gsa::train {

// Words of made-up tasks. None of them names anything in the generated tasks of an evaluation.

inline constexpr std::array<std::string_view, 32> first_names = {
    "Ada",     "Boris", "Clara",  "Dmitri", "Elena",  "Felix",    "Greta",  "Hugo",
    "Ingrid",  "Jonas", "Katya",  "Leon",   "Mira",   "Nadia",    "Oscar",  "Petra",
    "Quentin", "Rosa",  "Stefan", "Tilda",  "Ulrich", "Vera",     "Walter", "Xenia",
    "Yusuf",   "Zelda", "Amir",   "Bianca", "Cyril",  "Dorothea", "Emil",   "Farah"};
inline constexpr std::array<std::string_view, 32> last_names = {
    "Abbott",  "Brenner", "Castell",  "Dufour",    "Eriksen", "Fontaine", "Garvey",   "Holloway",
    "Ibarra",  "Jansen",  "Kessler",  "Lindqvist", "Moreau",  "Novak",    "Okafor",   "Pereira",
    "Quigley", "Rossi",   "Sandoval", "Thornton",  "Ueda",    "Vasquez",  "Whitlock", "Yilmaz",
    "Zeller",  "Ashby",   "Bellamy",  "Crowther",  "Dvorak",  "Ellison",  "Farrow",   "Grimaldi"};
inline constexpr std::array<std::string_view, 24> towns = {
    "Alderwick", "Brackenford", "Calvermere", "Dunholt", "Eastry",      "Fenbrook",
    "Grenville", "Hartsmoor",   "Ilverton",   "Jarrow",  "Kestrel Bay", "Lowmarsh",
    "Merrivale", "Northolt",    "Orlestone",  "Pennick", "Quarrendon",  "Ravensby",
    "Stokeham",  "Thornbury",   "Uplyme",     "Venmoor", "Wexcombe",    "Yelverton"};
inline constexpr std::array<std::string_view, 64> plain_words = {
    "anvil",  "barrel",  "bronze", "cactus", "carpet", "cellar",  "chalk",   "cinder",
    "clover", "copper",  "cotton", "dagger", "ember",  "fabric",  "flannel", "gravel",
    "hazel",  "hinge",   "indigo", "jacket", "kernel", "ladle",   "linen",   "lobster",
    "magnet", "mustard", "nickel", "olive",  "onion",  "pewter",  "pillow",  "plaster",
    "pulley", "radish",  "ribbon", "rocket", "rope",   "sailor",  "sandal",  "scarf",
    "shovel", "silver",  "spoon",  "spruce", "summit", "tablet",  "thistle", "timber",
    "tinsel", "trumpet", "tulip",  "turnip", "velvet", "vinegar", "violin",  "wagon",
    "walrus", "whistle", "window", "wreath", "yarn",   "zinc",    "biscuit", "cradle"};

}  // namespace gsa::train
