#include "core/env.h"

#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <fstream>
#include <limits>
#include <string>

namespace llada {
namespace {

// Cores that "quota period" pays for; infinity where there is no limit or no such file.
double cores_of_quota(double quota, double period) {
  return quota > 0 && period > 0 ? quota / period : std::numeric_limits<double>::infinity();
}

double cgroup_cores() {
  const std::string root = "/sys/fs/cgroup";
  double cores = std::numeric_limits<double>::infinity();
  // The groups of this process, outermost limit included: inside a container the own group is mounted as the root.
  std::ifstream groups("/proc/self/cgroup");
  for (std::string line; std::getline(groups, line);) {
    const auto second = line.find(':', line.find(':') + 1);
    if (second == std::string::npos) continue;
    for (std::string path = line.substr(second + 1);; path.resize(path.rfind('/'))) {
      std::string quota;
      double period = 0;
      if (std::ifstream v2(root + path + "/cpu.max"); v2 >> quota >> period && quota != "max")
        cores = std::min(cores, cores_of_quota(std::strtod(quota.c_str(), nullptr), period));
      double quota_us = 0;
      std::ifstream v1_quota(root + "/cpu" + path + "/cpu.cfs_quota_us");
      std::ifstream v1_period(root + "/cpu" + path + "/cpu.cfs_period_us");
      if (v1_quota >> quota_us && v1_period >> period) cores = std::min(cores, cores_of_quota(quota_us, period));
      if (path.empty() || path.rfind('/') == std::string::npos) break;
    }
  }
  return cores;
}

int affinity_cores() {
  // A mask of 1,024 processors is too small for some machines; the kernel says so and we ask for more.
  for (int num_cpus = 1024; num_cpus <= 1 << 20; num_cpus *= 4) {
    cpu_set_t* set = CPU_ALLOC(static_cast<std::size_t>(num_cpus));
    if (set == nullptr) break;
    const std::size_t size = CPU_ALLOC_SIZE(static_cast<std::size_t>(num_cpus));
    const int count = sched_getaffinity(0, size, set) == 0 ? CPU_COUNT_S(size, set) : 0;
    CPU_FREE(set);
    if (count > 0) return count;
  }
  return static_cast<int>(std::max(1L, sysconf(_SC_NPROCESSORS_ONLN)));
}

}  // namespace

int default_num_threads() {
  const double cores = std::min(static_cast<double>(affinity_cores()), cgroup_cores());
  return std::max(1, static_cast<int>(std::ceil(cores)));
}

CpuFeatures cpu_features() {
  CpuFeatures features;
#if defined(__x86_64__)
  features.avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  features.avx2vnni = features.avx2 && __builtin_cpu_supports("avxvnni");
  features.avx512 = features.avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                    __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
  features.avx512vnni = features.avx512 && __builtin_cpu_supports("avx512vnni");
  features.avx512bf16 = features.avx512vnni && __builtin_cpu_supports("avx512bf16");
#endif
  return features;
}

}  // namespace llada
