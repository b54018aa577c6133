#include "train/rendezvous.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cstring>
#include <optional>
#include <thread>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>
#include <vector>

#include "support/errors.h"

namespace gsa::train {
namespace {

using namespace std::chrono_literals;
using test::error_of;
using test::IsError;

using Id = std::array<std::byte, 128>;

/// A port of this machine that nobody uses at the moment.
std::uint16_t free_port() {
  const int socket = ::socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof(address);
  const bool is_bound = ::bind(socket, reinterpret_cast<sockaddr*>(&address), size) == 0 &&
                        ::getsockname(socket, reinterpret_cast<sockaddr*>(&address), &size) == 0;
  ::close(socket);
  if (!is_bound) throw std::runtime_error("no free port");
  return ntohs(address.sin_port);
}

/// What torchrun would say, for a store on a free port; tests run in one process each.
class RendezvousTest : public testing::Test {
 protected:
  RendezvousTest() {
    for (const char* name : {"TORCHELASTIC_USE_AGENT_STORE", "TORCHELASTIC_RESTART_COUNT"})
      ::unsetenv(name);
    set("MASTER_ADDR", "127.0.0.1");
    set("MASTER_PORT", std::to_string(port).c_str());
  }
  static void set(const char* name, const char* value) { ::setenv(name, value, 1); }

  /// The bytes that each of `size` processes has in the end; process 0 begins with `id`.
  static std::vector<Id> share(const Id& id, int size) {
    std::vector<Id> ids(static_cast<std::size_t>(size));
    ids[0] = id;
    std::vector<std::optional<Rendezvous>> all(ids.size());
    std::vector<std::thread> processes;
    for (int rank = size - 1; rank >= 0; --rank) {
      processes.emplace_back([&, rank] {
        const auto i = static_cast<std::size_t>(rank);
        all[i].emplace(Launch{.rank = rank, .size = size}, 30s);
        all[i]->share(ids[i]);
      });
    }
    for (std::thread& process : processes) process.join();
    return ids;
  }

  static Id id_of(int seed) {
    Id id;
    for (std::size_t i = 0; i < id.size(); ++i) id[i] = static_cast<std::byte>(seed + 7 * i);
    return id;
  }

  const std::uint16_t port = free_port();
};

TEST_F(RendezvousTest, GivesAllProcessesTheBytesOfTheFirst) {
  for (const int size : {1, 2, 5})
    EXPECT_THAT(share(id_of(size), size), testing::Each(id_of(size)));
}

TEST_F(RendezvousTest, UsesTheStoreOfTorchrunAndSharesAgainAfterARestart) {
  c10d::TCPStoreOptions options;
  options.port = port;
  options.isServer = true;
  const c10d::TCPStore agent("127.0.0.1", options);
  set("TORCHELASTIC_USE_AGENT_STORE", "True");
  for (const char* restart : {"0", "1"}) {
    set("TORCHELASTIC_RESTART_COUNT", restart);
    EXPECT_THAT(share(id_of(*restart), 3), testing::Each(id_of(*restart)));
  }
}

TEST_F(RendezvousTest, SaysWhatTheEnvironmentLacks) {
  const auto error = [] { return error_of([] { Rendezvous({.rank = 1, .size = 2}, 1s); }); };
  for (const char* bad : {"0", "x", "70000", "29500 ", "-1"}) {
    set("MASTER_PORT", bad);
    EXPECT_THAT(error(), IsError(ErrorKind::input, fmt::format("MASTER_PORT='{}'", bad)));
  }
  ::unsetenv("MASTER_PORT");
  EXPECT_THAT(error(), IsError(ErrorKind::input, "set MASTER_ADDR and MASTER_PORT"));
}

TEST_F(RendezvousTest, NamesTheStoreThatIsNotReached) {
  EXPECT_THAT(
      error_of([] { Rendezvous({.rank = 1, .size = 2}, 1s); }),
      IsError(ErrorKind::resource, fmt::format("does not reach the others at 127.0.0.1:{}", port)));
}

TEST_F(RendezvousTest, NamesTheStoreWhenTheFirstProcessStaysAway) {
  set("TORCHELASTIC_USE_AGENT_STORE", "True");
  c10d::TCPStoreOptions options;
  options.port = port;
  options.isServer = true;
  const c10d::TCPStore agent("127.0.0.1", options);
  Rendezvous rendezvous({.rank = 1, .size = 2}, 1s);
  Id id;
  EXPECT_THAT(error_of([&] { rendezvous.share(id); }),
              IsError(ErrorKind::resource, "process 1 of 2 does not reach the others"));
}

TEST_F(RendezvousTest, RefusesTheStoreOfAnotherRun) {
  Rendezvous first({.rank = 0, .size = 2}, 30s);
  std::array<std::byte, 4> other = {};
  first.share(other);
  Rendezvous second({.rank = 1, .size = 2}, 30s);
  Id id;
  EXPECT_THAT(error_of([&] { second.share(id); }),
              IsError(ErrorKind::resource, "choose another MASTER_PORT"));
}

}  // namespace
}  // namespace gsa::train
