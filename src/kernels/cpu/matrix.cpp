#include "kernels/cpu/matrix.h"

#include <algorithm>

#include "core/error.h"
#include "kernels/cpu/matrix_kernels.h"
#include "kernels/cpu/row_ops.h"

namespace gsa::kernels {
namespace {

constexpr std::int64_t kRowGroup = 16;  // 64 bytes of results: no cache line has two writers

const MatrixKernels& kernels(Isa isa) {
#ifdef GSA_KERNELS_X86
  switch (isa) {
    case Isa::portable:
      break;
    case Isa::avx2:
      return matrix_avx2;
    case Isa::avx512:
      return matrix_avx512;
    case Isa::avx512_bf16:
    case Isa::amx:
      return matrix_avx512_bf16;
  }
#endif
  (void)isa;
  return matrix_portable;
}

const MatrixKernels::OfType& kernels(core::DataType type, Isa isa) {
  return kernels(isa).of_type[index(type)];
}

const ExpandKernels& expand_kernels(Isa isa) {
#ifdef GSA_KERNELS_X86
  if (isa == Isa::avx2) return expand_avx2;
  if (isa != Isa::portable) return expand_avx512;
#endif
  (void)isa;
  return expand_portable;
}

constexpr std::int64_t round_up(std::int64_t n, std::int64_t to) { return (n + to - 1) / to * to; }

/// Where the forms lie in the scratch, each aligned to 64 bytes.
struct ScratchPlan {
  std::int64_t values, scales, sums, bf16, end;

  ScratchPlan(std::int64_t num_rows, std::int64_t num_cols) {
    const std::int64_t n = num_rows * num_cols;
    values = 0;
    scales = round_up(n, 64);
    sums = scales + round_up(n / 32 * 4, 64);
    bf16 = sums + round_up(n / 32 * 4, 64);
    end = bf16 + round_up(n * 2, 64);
  }
};

bool has_form(const Activations& x, ActivationForm form) {
  switch (form) {
    case ActivationForm::f32:
      return x.f32 != nullptr;
    case ActivationForm::bf16:
      return x.bf16 != nullptr;
    case ActivationForm::int8:
      return x.int8.values != nullptr;
  }
  return false;
}

void check_product(const MatrixView& w, const Activations& x, Isa isa) {
  if (w.num_cols != x.num_cols || w.num_cols % core::block_len(w.type) != 0) {
    core::internal_error("matmul: a {} matrix of {} columns, rows of {}",
                         core::data_type_name(w.type), w.num_cols, x.num_cols);
  }
  if (!has_form(x, kernels(w.type, isa).form)) {
    core::internal_error("matmul: the rows lack the form that {} weights need: call prepare",
                         core::data_type_name(w.type));
  }
}

}  // namespace

std::int64_t row_bytes(const MatrixView& w) {
  return w.num_cols / core::block_len(w.type) * core::block_bytes(w.type);
}

MatrixView row_range(const MatrixView& w, std::int64_t begin, std::int64_t count) {
  if (begin < 0 || count < 0 || begin > w.num_rows - count) {
    core::internal_error("row_range: rows {} to {} of {}", begin, begin + count, w.num_rows);
  }
  const auto* data = static_cast<const std::byte*>(w.data) + begin * row_bytes(w);
  return {w.type, data, count, w.num_cols};
}

ActivationForm activation_form(core::DataType weights, Isa isa) {
  return kernels(weights, isa).form;
}

std::int64_t activation_bytes(std::int64_t num_rows, std::int64_t num_cols) {
  return ScratchPlan(num_rows, num_cols).end;
}

void prepare(Activations& x, ActivationForm form, Isa isa) {
  if (has_form(x, form)) return;
  if (x.f32 == nullptr || x.scratch == nullptr) {
    core::internal_error("prepare: rows without f32 values or scratch");
  }
  const ScratchPlan plan(x.num_rows, x.num_cols);
  if (form == ActivationForm::bf16) {
    auto* out = reinterpret_cast<Bf16*>(x.scratch + plan.bf16);
    to_bf16(x.f32, x.num_rows * x.num_cols, out, isa);
    x.bf16 = out;
    return;
  }
  if (x.num_cols % 32 != 0) {
    core::internal_error("prepare: {} columns are no whole number of blocks of 32", x.num_cols);
  }
  x.int8 = {reinterpret_cast<std::int8_t*>(x.scratch + plan.values),
            reinterpret_cast<float*>(x.scratch + plan.scales),
            reinterpret_cast<float*>(x.scratch + plan.sums)};
  quantize_row(x.f32, x.num_rows * x.num_cols, x.int8, isa);
}

void quantize_row(const float* x, std::int64_t n, const QuantizedRows& row, Isa isa) {
  kernels(isa).quantize_row(x, n, row);
}

void matmul(std::span<const MatrixView> stack, const Activations& x, float* y,
            std::int64_t y_stride, Parallel& parallel, Isa isa) {
  std::int64_t num_rows = 0;
  for (const MatrixView& w : stack) {
    check_product(w, x, isa);
    num_rows += w.num_rows;
  }
  const auto num_groups = round_up(num_rows, kRowGroup) / kRowGroup;
  const auto num_tasks =
      static_cast<int>(std::min<std::int64_t>(parallel.num_threads(), num_groups));
  // By value: another core then fetches one object instead of chasing references.
  parallel.run(num_tasks, [=](int task) {
    const std::int64_t begin = num_groups * task / num_tasks * kRowGroup;
    const std::int64_t end = std::min(num_groups * (task + 1) / num_tasks * kRowGroup, num_rows);
    std::int64_t first = 0;  // row of the stack where w begins
    for (const MatrixView& w : stack) {
      const std::int64_t from = std::max(begin, first);
      const std::int64_t count = std::min(end, first + w.num_rows) - from;
      if (count > 0) {
        const std::int64_t bytes = row_bytes(w);
        const auto* data = static_cast<const std::uint8_t*>(w.data) + (from - first) * bytes;
        const auto product = kernels(w.type, isa).product;
        (product != nullptr ? product : expand_kernels(isa).product)(
            {data, bytes, count, w.type, &x, y + from, y_stride});
      }
      first += w.num_rows;
    }
  });
}

void matmul(const MatrixView& w, const Activations& x, float* y, Parallel& parallel, Isa isa) {
  matmul({&w, 1}, x, y, w.num_rows, parallel, isa);
}

void expand_rows(const MatrixView& w, Bf16* out, Parallel& parallel, Isa isa) {
  const auto num_tasks =
      static_cast<int>(std::min<std::int64_t>(parallel.num_threads(), w.num_rows));
  parallel.run(num_tasks, [&](int task) {
    const std::int64_t begin = w.num_rows * task / num_tasks;
    const std::int64_t end = w.num_rows * (task + 1) / num_tasks;
    const auto* data = static_cast<const std::uint8_t*>(w.data) + begin * row_bytes(w);
    expand_kernels(isa).to_bf16(w.type, data, (end - begin) * w.num_cols, out + begin * w.num_cols);
  });
}

}  // namespace gsa::kernels
