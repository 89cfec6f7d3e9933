#include "cpu/cpu_ops.h"

#include "core/env.h"
#include "ops/registry.h"

namespace llada::cpu {

namespace generic {
extern const Ops table;
}
#if defined(LLADA_HAVE_X86_TABLES)
namespace avx2 {
extern const Ops table;
}
namespace avx2vnni {
extern const Ops table;
}
namespace avx512vnni {
extern const Ops table;
}
namespace avx512bf16 {
extern const Ops table;
}
#endif

void register_tables() {
#if defined(LLADA_HAVE_X86_TABLES)
  const CpuFeatures features = cpu_features();
  if (features.avx512bf16) register_table(&avx512bf16::table);
  if (features.avx512vnni) register_table(&avx512vnni::table);
  if (features.avx2vnni) register_table(&avx2vnni::table);
  if (features.avx2) register_table(&avx2::table);
#endif
  register_table(&generic::table);
}

}  // namespace llada::cpu
