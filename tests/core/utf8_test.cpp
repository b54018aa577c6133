#include "core/utf8.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <vector>

#include "core/file.h"
#include "core/log.h"
#include "support/errors.h"
#include "support/python.h"
#include "support/temp_dir.h"

namespace gsa::core {
namespace {

using namespace std::string_view_literals;
using test::error_of;
using test::IsError;

/// Takes the next record (u32 length, bytes) off the front.
std::string_view take_record(std::string_view& records) {
  std::uint32_t len = 0;
  std::memcpy(&len, records.data(), sizeof(len));
  const std::string_view record = records.substr(sizeof(len), len);
  records.remove_prefix(sizeof(len) + len);
  return record;
}

TEST(Utf8, EqualsPython) {
  const test::TempDir dir;
  test::run_python("utf8_vectors.py", {dir / "vectors"});
  const std::string file = read_file(dir / "vectors");
  std::string_view records = file;
  int num_strings = 0;
  while (!records.empty()) {
    const std::string_view bytes = take_record(records);
    const std::string_view expected = take_record(records);
    const DecodedText decoded = decode_utf8(bytes);
    ASSERT_EQ(decoded.text, expected) << "string " << num_strings;
    ASSERT_EQ(decoded.num_replaced == 0, bytes == expected);
    if (decoded.num_replaced > 0) {
      const std::size_t at = decoded.first_bad_offset;
      ASSERT_EQ(bytes.substr(0, at), expected.substr(0, at));
      ASSERT_TRUE(expected.substr(at).starts_with("\uFFFD"));
      ASSERT_FALSE(bytes.substr(at).starts_with("\uFFFD"));
    }
    ++num_strings;
  }
  EXPECT_GE(num_strings, 10'000);
}

TEST(Utf8, CountsReplacementsByMaximalSubpart) {
  EXPECT_EQ(decode_utf8("abc").num_replaced, 0U);
  EXPECT_EQ(decode_utf8("a\xE2\x82").num_replaced, 1U);      // cut: one
  EXPECT_EQ(decode_utf8("a\xED\xA0\x80").num_replaced, 3U);  // surrogate: byte by byte
  EXPECT_EQ(decode_utf8("\xF0\x90\x41\xC0\x80").num_replaced, 3U);
  EXPECT_EQ(decode_utf8("12345678\xFF").first_bad_offset, 8U);
}

TEST(Utf8, NamesByteOrderMarks) {
  EXPECT_EQ(find_bom("text"), Bom::none);
  EXPECT_EQ(find_bom(""), Bom::none);
  EXPECT_EQ(find_bom("\xEF\xBB\xBFtext"), Bom::utf8);
  EXPECT_EQ(find_bom("\xFF\xFEt\0"sv), Bom::utf16_le);
  EXPECT_EQ(find_bom("\xFE\xFF\0t"sv), Bom::utf16_be);
  EXPECT_EQ(find_bom("\xFF\xFE\0\0t\0\0\0"sv), Bom::utf32_le);
  EXPECT_EQ(find_bom("\0\0\xFE\xFF\0\0\0t"sv), Bom::utf32_be);
}

TEST(Utf8, DocumentsLoseTheirMarkAndWarnOnce) {
  std::vector<std::string> warnings;
  set_warning_handler([&](const std::string& message) { warnings.push_back(message); });
  EXPECT_EQ(decode_document("\xEF\xBB\xBFtext", "d.txt"), "text");
  EXPECT_EQ(decode_document("", "d.txt"), "");
  EXPECT_TRUE(warnings.empty());
  EXPECT_EQ(decode_document("\xEF\xBB\xBFte\xFFxt\xFF", "d.txt"), "te\uFFFDxt\uFFFD");
  set_warning_handler(nullptr);
  ASSERT_EQ(warnings.size(), 1U);
  EXPECT_THAT(warnings[0], testing::HasSubstr("d.txt: 2 ill-formed"));
  EXPECT_THAT(warnings[0], testing::HasSubstr("first at byte 5"));

  EXPECT_THAT(error_of([] { decode_document("\xFF\xFEt\0"sv, "d.txt"); }),
              IsError(ErrorKind::input, "d.txt: is UTF-16LE, not UTF-8"));
  EXPECT_THAT(error_of([] { decode_document("\0\0\xFE\xFF"sv, "d.txt"); }),
              IsError(ErrorKind::input, "iconv -f UTF-32BE -t UTF-8"));
}

TEST(Utf8, DocumentsWithNulBytesAreNamed) {
  std::vector<std::string> warnings;
  set_warning_handler([&](const std::string& message) { warnings.push_back(message); });
  EXPECT_EQ(decode_document("t\0e\0"sv, "wide.txt"), "t\0e\0"sv);
  set_warning_handler(nullptr);
  ASSERT_EQ(warnings.size(), 1U);
  EXPECT_THAT(warnings[0], testing::HasSubstr("wide.txt: byte 1 is NUL"));
}

TEST(Utf8, PrintableIsOneShortLine) {
  EXPECT_EQ(printable("blk.0.ñ"), "blk.0.ñ");
  EXPECT_EQ(printable("a\nb\x1b[0m\x7f"), "a?b?[0m?");
  EXPECT_EQ(printable("\xC3"), "\uFFFD");
  EXPECT_LT(printable(std::string(10'000, '\xFF')).size(), 300U);
}

}  // namespace
}  // namespace gsa::core
