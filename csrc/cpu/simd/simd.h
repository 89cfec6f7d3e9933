// Sixteen float lanes, with the same names for every instruction set. A file of kernels is compiled once for each
// table, and LLADA_TABLE names the namespace of its functions. Headers that such a file includes hold force-inlined
// functions only.
#pragma once

#if defined(LLADA_SIMD_AVX512)
#include "cpu/simd/avx512.h"
#else
#include "cpu/simd/portable.h"
#endif
