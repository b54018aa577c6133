#pragma once

#include <c10/core/Device.h>
#include <c10/core/ScalarType.h>

#include <string_view>

namespace gsa::model {

/// `cpu`, `cuda` or `cuda:N`. Input error for another word, resource error if there is no such
/// device.
at::Device parse_device(std::string_view text);

/// bf16 where the device multiplies it fast (CUDA, CPUs with AVX512_BF16), else f32.
at::ScalarType default_dtype(at::Device device);

/// `f32`, `bf16` or `auto`; input error otherwise (f16 is none of them: CPUs compute it slowly).
at::ScalarType parse_dtype(std::string_view text, at::Device device);
/// `f32` or `bf16`: what a model computes in.
std::string_view dtype_name(at::ScalarType dtype);

}  // namespace gsa::model
