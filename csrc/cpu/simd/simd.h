// Sixteen float lanes, the same names for every instruction set. A file of kernels is compiled once for each table,
// with LLADA_TABLE naming the namespace of its functions; only force-inlined functions may stand in headers it
// includes.
#pragma once

#if defined(LLADA_SIMD_AVX512)
#include "cpu/simd/avx512.h"
#else
#include "cpu/simd/portable.h"
#endif
