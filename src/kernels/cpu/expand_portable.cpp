#include "kernels/cpu/expand_inline.h"

GSA_EXPAND_KERNELS(expand_portable)
