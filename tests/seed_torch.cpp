#include <ATen/Context.h>
#include <gtest/gtest.h>

#include "ATen/CPUGeneratorImpl.h"

// Linked to tests that draw tensors: without a seed LibTorch draws others in every process.
namespace gsa::test {
namespace {

class SeedTorch final : public testing::Environment {
  void SetUp() override { at::manual_seed(0); }
};

[[maybe_unused]] const testing::Environment* const environment =
    testing::AddGlobalTestEnvironment(new SeedTorch);  // which owns it

}  // namespace
}  // namespace gsa::test
