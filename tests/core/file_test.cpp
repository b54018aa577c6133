#include "core/file.h"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <atomic>
#include <chrono>
#include <csignal>
#include <numeric>
#include <optional>
#include <sstream>
#include <thread>
#include <vector>

#include "support/errors.h"
#include "support/resident.h"
#include "support/temp_dir.h"

namespace gsa::core {
namespace {

using test::error_of;
using test::IsError;

std::string text_of(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

std::size_t num_entries(const test::TempDir& dir) {
  return static_cast<std::size_t>(
      std::distance(std::filesystem::directory_iterator(dir.path()), {}));
}

/// Keeps files of this process from growing beyond a size while it lives.
class FileSizeLimit {
 public:
  explicit FileSizeLimit(rlim_t num_bytes) {
    std::signal(SIGXFSZ, SIG_IGN);
    getrlimit(RLIMIT_FSIZE, &before_);
    const rlimit limit{num_bytes, before_.rlim_max};
    setrlimit(RLIMIT_FSIZE, &limit);
  }
  ~FileSizeLimit() { setrlimit(RLIMIT_FSIZE, &before_); }

 private:
  rlimit before_{};
};

TEST(File, ReadsBackWhatWasWritten) {
  const test::TempDir dir;
  std::string text =
      "line\n\0\xFF"
      "end";
  for (const std::size_t num_bytes : {std::size_t{0}, text.size(), std::size_t{300'000}}) {
    text.resize(num_bytes, 'x');
    write_file_atomic(dir / "f", text);
    EXPECT_EQ(read_file(dir / "f"), text);
    EXPECT_EQ(text_of(MappedFile::open(dir / "f").bytes()), text);
  }
  EXPECT_EQ(num_entries(dir), 1U);
}

TEST(File, WritesPartsInOrder) {
  const test::TempDir dir;
  const auto bytes = [](std::string_view part) { return std::as_bytes(std::span(part)); };
  const std::array parts{bytes("ab"), bytes(""), bytes("cd")};
  write_file_atomic(dir / "f", parts);
  EXPECT_EQ(read_file(dir / "f"), "abcd");
}

TEST(File, MappingSurvivesMoveAndReplacement) {
  const test::TempDir dir;
  write_file_atomic(dir / "f", "old");
  MappedFile file = MappedFile::open(dir / "f");
  MappedFile moved = std::move(file);
  EXPECT_TRUE(file.bytes().empty());
  write_file_atomic(dir / "f", "new content");
  EXPECT_EQ(text_of(moved.bytes()), "old");
  moved = MappedFile::open(dir / "f");
  EXPECT_EQ(text_of(moved.bytes()), "new content");
}

TEST(File, IsLockedByOne) {
  const test::TempDir dir;
  write_file_atomic(dir / "f", "1");
  std::optional<FileLock> lock = FileLock::take(dir / "f");
  ASSERT_TRUE(lock);
  EXPECT_FALSE(FileLock::take(dir / "f"));
  FileLock moved = *std::move(lock);
  lock.reset();
  EXPECT_FALSE(FileLock::take(dir / "f"));
  write_file_atomic(dir / "f", "2");  // another file
  const auto of_new = FileLock::take(dir / "f");
  EXPECT_TRUE(of_new);
  moved = *FileLock::take(dir / "made");  // ends the first
  EXPECT_FALSE(FileLock::take(dir / "f"));
  EXPECT_EQ(read_file(dir / "f"), "2");
  EXPECT_EQ(read_file(dir / "made"), "");
  EXPECT_FALSE(FileLock::take(dir / "made"));
  EXPECT_TRUE(FileLock::take(dir / "no folder" / "f"));
}

/// Threads that replace the file and lock the new one: at most one of them gets that far at a time.
TEST(File, LockIsHandedOnToTheFileThatReplacesIt) {
  const test::TempDir dir;
  std::atomic<int> num_holders{0}, num_taken{0}, num_shared{0};
  const auto replace_often = [&] {
    for (int i = 0; i < 50; ++i) {
      const std::optional<FileLock> before = FileLock::take(dir / "f");
      if (!before) continue;
      write_file_atomic(dir / "f", "new");
      const std::optional<FileLock> lock = FileLock::take(dir / "f");
      if (!lock) continue;
      ++num_taken;
      if (++num_holders > 1) ++num_shared;
      std::this_thread::sleep_for(std::chrono::microseconds(100));
      --num_holders;
    }
  };
  {
    std::vector<std::jthread> threads;
    for (int i = 0; i < 4; ++i) threads.emplace_back(replace_often);
  }
  EXPECT_GT(num_taken, 0);
  EXPECT_EQ(num_shared, 0);
}

TEST(File, LeavesOnDiskWhatIsHardlyReadAgain) {
  const test::TempDir dir;
  constexpr std::int64_t num_bytes = 32 << 20;
  std::string text(num_bytes, 'x');
  text[num_bytes / 2] = 'y';
  write_file_atomic(dir / "f", text);
  const MappedFile file = MappedFile::open(dir / "f");
  const auto sum = [&] {
    return std::accumulate(file.bytes().begin(), file.bytes().end(), std::int64_t{0},
                           [](std::int64_t total, std::byte byte) {
                             return total + std::to_integer<std::int64_t>(byte);
                           });
  };
  const std::int64_t expected = num_bytes * 'x' + 1;
  ASSERT_EQ(sum(), expected);
  const std::int64_t before = test::status_bytes("RssFile");
  leave_on_disk(file.bytes().subspan(100, num_bytes - 200));
  if (before > 0) {
    EXPECT_LT(test::status_bytes("RssFile"), before - num_bytes * 9 / 10);
  }
  EXPECT_EQ(sum(), expected);
  leave_on_disk(file.bytes().first(100));  // less than a page
  leave_on_disk({});
}

// What lies beside it is read without bringing it back.
TEST(File, LeavesOnDiskBesideWhatIsRead) {
  const test::TempDir dir;
  constexpr std::size_t step = 32 << 10, num_bytes = 32 << 20;
  write_file_atomic(dir / "f", std::string(num_bytes, 'x'));
  const MappedFile file = MappedFile::open(dir / "f");
  for (std::size_t begin = 0; begin < num_bytes; begin += 2 * step)
    leave_on_disk(file.bytes().subspan(begin, step));
  const std::int64_t before = test::status_bytes("RssFile");
  if (before == 0) GTEST_SKIP() << "this system does not tell";
  for (std::size_t begin = step; begin < num_bytes; begin += 2 * step)
    ASSERT_EQ(file.bytes()[begin], std::byte{'x'});
  EXPECT_LT(test::status_bytes("RssFile"), before + static_cast<std::int64_t>(num_bytes * 6 / 10));
}

TEST(File, ErrorsNameThePath) {
  const test::TempDir dir;
  const auto map = [](const std::filesystem::path& path) {
    return error_of([&] { MappedFile::open(path); });
  };
  const auto read = [](const std::filesystem::path& path) {
    return error_of([&] { read_file(path); });
  };
  EXPECT_THAT(map(dir / "absent"), IsError(ErrorKind::input, "absent: no such file"));
  EXPECT_THAT(read(dir / "absent"), IsError(ErrorKind::input, "absent: no such file"));
  EXPECT_THAT(map(dir.path()), IsError(ErrorKind::input, dir.path().string() + ": is a directory"));
  EXPECT_THAT(read(dir.path()), IsError(ErrorKind::input, "is a directory"));
  EXPECT_THAT(map("/dev/null"), IsError(ErrorKind::input, "/dev/null: is no regular file"));
  EXPECT_EQ(read_file("/dev/null"), "");
}

TEST(File, ReadsPipes) {
  const test::TempDir dir;
  ASSERT_EQ(mkfifo((dir / "pipe").c_str(), 0600), 0);
  std::string text(200'000, 'p');
  std::thread writer([&] {
    std::FILE* pipe = std::fopen((dir / "pipe").c_str(), "w");
    std::fwrite(text.data(), 1, text.size(), pipe);
    std::fclose(pipe);
  });
  EXPECT_EQ(read_file(dir / "pipe"), text);
  writer.join();
}

TEST(File, ReadsStreamsToTheirEnd) {
  for (const std::size_t num_bytes : {0U, 1U, 65'536U, 200'000U}) {
    std::istringstream stream(std::string(num_bytes, 's'));
    EXPECT_EQ(read_stream(stream, "stdin").size(), num_bytes);
  }
  std::istringstream broken("text");
  broken.setstate(std::ios::badbit);
  EXPECT_THAT(error_of([&] { read_stream(broken, "stdin"); }),
              IsError(ErrorKind::resource, "stdin: reading failed"));
}

TEST(File, FailedWriteLeavesTheOldFileAndNothingElse) {
  const test::TempDir dir;
  write_file_atomic(dir / "f", "old");
  {
    const FileSizeLimit limit(1000);
    EXPECT_THAT(error_of([&] { write_file_atomic(dir / "f", std::string(5000, 'x')); }),
                IsError(ErrorKind::resource, "writing failed: File too large"));
  }
  EXPECT_EQ(read_file(dir / "f"), "old");
  EXPECT_EQ(num_entries(dir), 1U);
}

TEST(File, RefusesTargetsThatAreNoFiles) {
  const test::TempDir dir;
  std::filesystem::create_directory(dir / "folder");
  EXPECT_THAT(error_of([&] { write_file_atomic(dir / "folder", "x"); }),
              IsError(ErrorKind::input, "will not be replaced"));
  EXPECT_THAT(error_of([&] { write_file_atomic("/dev/null", "x"); }),
              IsError(ErrorKind::input, "will not be replaced"));
  EXPECT_THAT(error_of([&] { write_file_atomic(dir / "absent" / "f", "x"); }),
              IsError(ErrorKind::resource, "cannot be created: No such file"));
  EXPECT_EQ(num_entries(dir), 1U);
}

}  // namespace
}  // namespace gsa::core
