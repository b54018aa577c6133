#include "train/rendezvous.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cstdint>
#include <cstdlib>
#include <optional>
#include <string>
#include <string_view>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>
#include <vector>

#include "core/error.h"

namespace gsa::train {
namespace {

std::string_view variable(const char* name) {
  const char* text = std::getenv(name);
  return text == nullptr ? std::string_view() : text;
}

std::uint16_t parse_port(std::string_view digits) {
  std::uint16_t port = 0;
  const auto [rest, error] = std::from_chars(digits.data(), digits.data() + digits.size(), port);
  if (error != std::errc() || rest != digits.data() + digits.size() || port == 0)
    core::input_error("MASTER_PORT='{}' in the environment is no port", digits);
  return port;
}

}  // namespace

struct Rendezvous::State {
  Launch launch;
  std::string host;
  std::uint16_t port = 0;
  std::optional<c10d::TCPStore> store;

  /// Runs a call of the store; its error becomes one line.
  template <typename Call>
  void run(const Call& call) {
    try {
      call();
    } catch (const c10::Error& error) {
      const std::string text = error.what_without_backtrace();
      core::resource_error("process {} of {} does not reach the others at {}:{}: {}", launch.rank,
                           launch.size, host, port, text.substr(0, text.find('\n')));
    }
  }
};

Rendezvous::Rendezvous(const Launch& launch, std::chrono::seconds timeout)
    : state_(std::make_unique<State>()) {
  const std::string_view host = variable("MASTER_ADDR"), port = variable("MASTER_PORT");
  if (host.empty() || port.empty()) {
    core::input_error(
        "the processes do not know where to meet: start with torchrun, or with "
        "mpirun and a gsa built with OpenMPI, or set MASTER_ADDR and MASTER_PORT");
  }
  state_->launch = launch;
  state_->host = host;
  state_->port = parse_port(port);
  c10d::TCPStoreOptions options;
  options.port = state_->port;
  options.isServer = launch.rank == 0 && variable("TORCHELASTIC_USE_AGENT_STORE") != "True";
  options.waitWorkers = false;
  options.timeout = timeout;
  state_->run([&] { state_->store.emplace(state_->host, options); });
}

Rendezvous::~Rendezvous() = default;

void Rendezvous::share(std::span<std::byte> bytes) {
  // torchrun's store outlives a restart of the processes.
  const std::string key = fmt::format("gsa/{}", variable("TORCHELASTIC_RESTART_COUNT"));
  const auto* begin = reinterpret_cast<const std::uint8_t*>(bytes.data());
  std::vector<std::uint8_t> value(begin, begin + bytes.size());
  state_->run([&] {
    if (state_->launch.rank == 0) {
      state_->store->set(key, value);
    } else {
      value = state_->store->get(key);  // waits until it is there
    }
  });
  if (value.size() != bytes.size()) {
    core::resource_error("another run uses {}:{}: choose another MASTER_PORT", state_->host,
                         state_->port);
  }
  std::ranges::copy(std::as_bytes(std::span(value)), bytes.begin());
}

}  // namespace gsa::train
