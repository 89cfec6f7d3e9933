// What the machine grants this process: cores and instruction sets.
#pragma once

namespace llada {

// Threads worth starting: the cores of the affinity mask, no more than the cgroup quota (v1 and v2) pays for.
int default_num_threads();

struct CpuFeatures {
  bool avx2 = false;        // with FMA
  bool avx2vnni = false;    // and AVX-VNNI: Alder Lake and later
  bool avx512 = false;      // AVX-512 F, BW, VL, DQ: Skylake-SP and later
  bool avx512vnni = false;  // and VNNI: Cascade Lake, Ice Lake and later
  bool avx512bf16 = false;  // and BF16: Cooper Lake, Sapphire Rapids, Zen 4 and later
};
CpuFeatures cpu_features();

}  // namespace llada
