#include "core/decompress.h"

#include <lzma.h>
#include <zlib.h>
#include <zstd.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <limits>
#include <string>

#include "core/error.h"

namespace gsa::core {
namespace {

constexpr std::uint64_t kMaxDecoderBytes = std::uint64_t{1} << 30;

[[noreturn]] void damaged(std::string_view what, std::string_view problem) {
  input_error("data: {}: {}; the file is cut off or damaged, make it again", what, problem);
}

class PlainSource : public ByteSource {
 public:
  explicit PlainSource(std::span<const std::byte> bytes) : bytes_(bytes) {}

  std::size_t read(std::span<char> buffer) override {
    const std::size_t count = std::min(buffer.size(), bytes_.size() - num_read_);
    if (count > 0) std::memcpy(buffer.data(), bytes_.data() + num_read_, count);
    num_read_ += count;
    return count;
  }
  std::size_t num_consumed() const override { return num_read_; }

 private:
  std::span<const std::byte> bytes_;
  std::size_t num_read_ = 0;
};

/// RFC 1952; members may follow one another.
class GzipSource : public ByteSource {
 public:
  GzipSource(std::span<const std::byte> bytes, std::string_view what) : bytes_(bytes), what_(what) {
    constexpr int gzip_only = 16 + MAX_WBITS;
    if (inflateInit2(&stream_, gzip_only) != Z_OK)
      resource_error("data: {}: no memory to unpack it", what);
  }
  GzipSource(const GzipSource&) = delete;
  GzipSource& operator=(const GzipSource&) = delete;
  ~GzipSource() override { inflateEnd(&stream_); }

  std::size_t read(std::span<char> buffer) override {
    stream_.next_out = reinterpret_cast<Bytef*>(buffer.data());
    stream_.avail_out = narrow(buffer.size());
    const std::size_t wanted = stream_.avail_out;
    while (stream_.avail_out == wanted && !(is_between_members_ && num_left() == 0)) {
      stream_.next_in = reinterpret_cast<Bytef*>(const_cast<std::byte*>(bytes_.data() + num_used_));
      stream_.avail_in = narrow(num_left());
      const std::size_t given = stream_.avail_in;
      if (is_between_members_ && inflateReset(&stream_) != Z_OK) damaged(what_, "gzip fails");
      const int status = inflate(&stream_, Z_NO_FLUSH);
      num_used_ += given - stream_.avail_in;
      is_between_members_ = status == Z_STREAM_END;
      if (status != Z_OK && status != Z_STREAM_END)
        damaged(what_, num_left() == 0 ? "the gzip data end too early" : "no valid gzip data");
    }
    return wanted - stream_.avail_out;
  }
  std::size_t num_consumed() const override { return num_used_; }

 private:
  static uInt narrow(std::size_t size) {
    return static_cast<uInt>(std::min<std::size_t>(size, std::numeric_limits<uInt>::max()));
  }
  std::size_t num_left() const { return bytes_.size() - num_used_; }

  std::span<const std::byte> bytes_;
  std::string what_;
  std::size_t num_used_ = 0;
  bool is_between_members_ = false;
  z_stream stream_ = {};
};

class XzSource : public ByteSource {
 public:
  XzSource(std::span<const std::byte> bytes, std::string_view what)
      : what_(what), num_bytes_(bytes.size()) {
    if (lzma_stream_decoder(&stream_, kMaxDecoderBytes, LZMA_CONCATENATED) != LZMA_OK)
      resource_error("data: {}: no memory to unpack it", what);
    stream_.next_in = reinterpret_cast<const std::uint8_t*>(bytes.data());
    stream_.avail_in = bytes.size();
  }
  XzSource(const XzSource&) = delete;
  XzSource& operator=(const XzSource&) = delete;
  ~XzSource() override { lzma_end(&stream_); }

  std::size_t read(std::span<char> buffer) override {
    stream_.next_out = reinterpret_cast<std::uint8_t*>(buffer.data());
    stream_.avail_out = buffer.size();
    while (!is_over_ && stream_.avail_out == buffer.size()) {
      const lzma_ret status = lzma_code(&stream_, LZMA_FINISH);
      if (status == LZMA_STREAM_END) {
        is_over_ = true;
      } else if (status == LZMA_MEMLIMIT_ERROR) {
        input_error("data: {}: unpacking takes more than {} bytes of memory; pack it with xz -9",
                    what_, kMaxDecoderBytes);
      } else if (status != LZMA_OK) {
        damaged(what_, stream_.avail_in == 0 ? "the xz data end too early" : "no valid xz data");
      }
    }
    return buffer.size() - stream_.avail_out;
  }
  std::size_t num_consumed() const override { return num_bytes_ - stream_.avail_in; }

 private:
  std::string what_;
  std::size_t num_bytes_;
  bool is_over_ = false;
  lzma_stream stream_ = LZMA_STREAM_INIT;
};

class ZstdSource : public ByteSource {
 public:
  ZstdSource(std::span<const std::byte> bytes, std::string_view what)
      : what_(what), stream_(ZSTD_createDStream()), in_{bytes.data(), bytes.size(), 0} {
    if (!stream_) resource_error("data: {}: no memory to unpack it", what);
  }

  std::size_t read(std::span<char> buffer) override {
    ZSTD_outBuffer out{buffer.data(), buffer.size(), 0};
    while (out.pos == 0 && !(frame_is_over_ && in_.pos == in_.size)) {
      const std::size_t pos_before = in_.pos;
      const std::size_t status = ZSTD_decompressStream(stream_.get(), &out, &in_);
      if (ZSTD_isError(status)) damaged(what_, ZSTD_getErrorName(status));
      frame_is_over_ = status == 0;
      if (out.pos == 0 && in_.pos == pos_before && !frame_is_over_)
        damaged(what_, "the zstd data end too early");
    }
    return out.pos;
  }
  std::size_t num_consumed() const override { return in_.pos; }

 private:
  struct Free {
    void operator()(ZSTD_DStream* stream) const { ZSTD_freeDStream(stream); }
  };

  std::string what_;
  std::unique_ptr<ZSTD_DStream, Free> stream_;
  ZSTD_inBuffer in_;
  bool frame_is_over_ = false;
};

struct Format {
  Compression compression;
  std::string_view name;
  std::string_view suffix;
  std::string_view magic;
};

constexpr std::array<Format, 3> kFormats = {{
    {Compression::gzip, "gzip", ".gz", {"\x1F\x8B", 2}},
    {Compression::xz,
     "xz",
     ".xz",
     {"\xFD"
      "7zXZ\0",
      6}},
    {Compression::zstd, "zstd", ".zst", {"\x28\xB5\x2F\xFD", 4}},
}};

}  // namespace

Compression find_compression(std::span<const std::byte> bytes, std::string_view what) {
  const std::string_view content(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  for (const Format& format : kFormats) {
    if (content.starts_with(format.magic)) return format.compression;
  }
  for (const Format& format : kFormats) {
    if (what.ends_with(format.suffix)) {
      input_error("data: {}: ends in {}, but holds no {} data; rename it or make it again", what,
                  format.suffix, format.name);
    }
  }
  return Compression::none;
}

std::unique_ptr<ByteSource> open_source(std::span<const std::byte> bytes, std::string_view what) {
  switch (find_compression(bytes, what)) {
    case Compression::gzip:
      return std::make_unique<GzipSource>(bytes, what);
    case Compression::xz:
      return std::make_unique<XzSource>(bytes, what);
    case Compression::zstd:
      return std::make_unique<ZstdSource>(bytes, what);
    case Compression::none:
      break;
  }
  return std::make_unique<PlainSource>(bytes);
}

}  // namespace gsa::core
