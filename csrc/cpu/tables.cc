#include "cpu/tables.h"

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
namespace avx512 {
extern const Ops table;
}
namespace avx512vnni {
extern const Ops table;
}
namespace avx512bf16 {
extern const Ops table;
}
#endif

bool multiplies(DType rows, DType weight) {
  if (rows == DType::kInt8) return weight == DType::kInt8;
  if (rows == DType::kFloat32) return weight == DType::kFloat32;
  return rows == DType::kBFloat16 && (weight == DType::kBFloat16 || weight == DType::kInt8 || weight == DType::kInt4);
}

void finish(Stream) {}

void register_tables() {
#if defined(LLADA_HAVE_X86_TABLES)
  const CpuFeatures features = cpu_features();
  if (features.avx512bf16) register_table(&avx512bf16::table);
  if (features.avx512vnni) register_table(&avx512vnni::table);
  if (features.avx512) register_table(&avx512::table);
  if (features.avx2vnni) register_table(&avx2vnni::table);
  if (features.avx2) register_table(&avx2::table);
#endif
  register_table(&generic::table);
}

}  // namespace llada::cpu
