#include "model/device.h"

#include <ATen/Context.h>
#include <ATen/detail/CUDAHooksInterface.h>

#include <charconv>

#include "core/error.h"

namespace gsa::model {
namespace {

bool cpu_multiplies_bf16() {
#if defined(__x86_64__) && defined(__GNUC__)
  return __builtin_cpu_supports("avx512bf16");
#else
  return false;
#endif
}

}  // namespace

at::Device parse_device(std::string_view text) {
  if (text == "cpu") return at::kCPU;
  int idx = 0;
  bool is_valid = text == "cuda";
  if (text.starts_with("cuda:")) {
    const char* const end = text.data() + text.size();
    const auto [rest, error] = std::from_chars(text.data() + 5, end, idx);
    is_valid = error == std::errc() && rest == end && idx >= 0 && idx < 128;
  }
  if (!is_valid) core::input_error("device: '{}' is unknown: use cpu, cuda or cuda:N", text);
  const int num_devices = at::hasCUDA() ? at::detail::getCUDAHooks().deviceCount() : 0;
  if (idx >= num_devices) {
    core::resource_error("device: '{}' is not there: LibTorch sees {} CUDA devices; use cpu", text,
                         num_devices);
  }
  return {at::kCUDA, static_cast<at::DeviceIndex>(idx)};
}

at::ScalarType default_dtype(at::Device device) {
  return !device.is_cpu() || cpu_multiplies_bf16() ? at::kBFloat16 : at::kFloat;
}

at::ScalarType parse_dtype(std::string_view text, at::Device device) {
  if (text == "auto") return default_dtype(device);
  if (text == "f32") return at::kFloat;
  if (text == "bf16") return at::kBFloat16;
  core::input_error("dtype: '{}' is unknown: use auto, f32 or bf16", text);
}

std::string_view dtype_name(at::ScalarType dtype) {
  return dtype == at::kBFloat16 ? "bf16" : "f32";
}

}  // namespace gsa::model
