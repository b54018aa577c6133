#include "core/json.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "support/errors.h"

namespace gsa::core {
namespace {

using test::error_of;
using test::IsError;

std::string nested(int depth) {
  return std::string(static_cast<std::size_t>(depth), '[') +
         std::string(static_cast<std::size_t>(depth), ']');
}

TEST(Json, ReadsAndLooksUp) {
  const auto json = parse_json(
      R"({"i": -3, "f": 0.5, "b": true, "s": "x\u00e9", "n": null, "big": 18446744073709551615})",
      "config.json");
  EXPECT_EQ(find_int(json, "i", "c"), -3);
  EXPECT_EQ(find_float(json, "f", "c"), 0.5);
  EXPECT_EQ(find_float(json, "i", "c"), -3.0);
  EXPECT_EQ(find_bool(json, "b", "c"), true);
  EXPECT_EQ(find_string(json, "s", "c"), "xé");
  EXPECT_EQ(find_int(json, "n", "c"), std::nullopt);
  EXPECT_EQ(find_string(json, "absent", "c"), std::nullopt);

  EXPECT_THAT(error_of([&] { find_int(json, "f", "c.json"); }),
              IsError(ErrorKind::input, "c.json: 'f' is a JSON number, it has to be an integer"));
  EXPECT_THAT(error_of([&] { find_int(json, "big", "c"); }),
              IsError(ErrorKind::input, "larger than any size"));
  EXPECT_THAT(error_of([&] { find_bool(json, "i", "c"); }), IsError(ErrorKind::input, "'i'"));
  EXPECT_THAT(error_of([&] { find_float(json, "s", "c"); }), IsError(ErrorKind::input, "'s'"));
  EXPECT_THAT(error_of([&] { find_string(json, "b", "c"); }), IsError(ErrorKind::input, "'b'"));
  EXPECT_THAT(error_of([&] { find_bool(parse_json("[1]", "c"), "b", "c"); }),
              IsError(ErrorKind::input, "is a JSON array, not an object"));
}

TEST(Json, MistakesNameFileAndByte) {
  EXPECT_THAT(error_of([] { parse_json(R"({"a": 1,})", "config.json"); }),
              IsError(ErrorKind::input, "config.json: no valid JSON at byte 9 of 9"));
  EXPECT_THAT(error_of([] { parse_json(R"({"a": [1, 2, 3)", "config.json"); }),
              IsError(ErrorKind::input, "config.json: ends too early, after 14 bytes"));
  for (const char* text : {"", "{", "[1, 2"}) {
    EXPECT_THAT(error_of([&] { parse_json(text, "x.json"); }),
                IsError(ErrorKind::input, "x.json: ends too early"))
        << text;
  }
  for (const char* text : {"{\"a\" 1}", "\"\xFF\"", "1 2", "{'a': 1}"}) {
    EXPECT_THAT(error_of([&] { parse_json(text, "x.json"); }),
                IsError(ErrorKind::input, "x.json: no valid JSON at byte"))
        << text;
  }
  EXPECT_THAT(error_of([] { parse_json("1e999", "x.json"); }), IsError(ErrorKind::input, "x.json"));
}

TEST(Json, RefusesDeepNesting) {
  EXPECT_EQ(parse_json(nested(128), "x.json").size(), 1U);
  EXPECT_THAT(error_of([] { parse_json(nested(129), "x.json"); }),
              IsError(ErrorKind::input, "nested deeper than 128"));
  EXPECT_THAT(error_of([] { parse_json(nested(100'000), "x.json"); }),
              IsError(ErrorKind::input, "nested deeper than 128"));
  std::string objects;
  for (int i = 0; i < 100'000; ++i) objects += "{\"a\":";
  EXPECT_THAT(error_of([&] { parse_json(objects, "x.json"); }),
              IsError(ErrorKind::input, "nested deeper than 128"));
}

TEST(Json, RefusesDuplicateKeysWhereAsked) {
  const auto refuses = [](const char* text) {
    return error_of([&] { parse_json(text, "x.json", DuplicateKeys::refuse); }).has_value();
  };
  EXPECT_EQ(find_int(parse_json(R"({"a": 1, "a": 2})", "x"), "a", "x"), 2);
  EXPECT_TRUE(refuses(R"({"a": 1, "a": 2})"));
  EXPECT_TRUE(refuses(R"({"o": [{"a": {"x": 1}, "a": 2}]})"));
  EXPECT_FALSE(refuses(R"({"a": {"a": 1, "b": 2}, "b": {"a": 1}, "c": [{"a": 1}, {"a": 1}]})"));
}

}  // namespace
}  // namespace gsa::core
