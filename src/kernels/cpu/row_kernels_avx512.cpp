#include "kernels/cpu/row_kernels_inline.h"

GSA_ROW_KERNELS(row_avx512)
