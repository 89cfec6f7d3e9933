// What the machine grants this process: cores and instruction sets.
#pragma once

namespace llada {

// Threads worth starting: the cores of the affinity mask, no more than the cgroup quota (v1 and v2) pays for.
int default_num_threads();

struct CpuFeatures {
  bool avx2 = false;        // with FMA and F16C
  bool avx512bf16 = false;  // AVX-512 F, BW, VL, DQ, BF16 and VNNI
};
CpuFeatures cpu_features();

}  // namespace llada
