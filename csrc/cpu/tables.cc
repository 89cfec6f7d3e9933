#include "cpu/tables.h"

#include <cstring>

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

void keep_rows(Stream, const std::int32_t* rows, std::int64_t num_kept, Tensor x) {
  const std::int64_t step = row_bytes(x.dtype, x.cols);
  char* data = static_cast<char*>(x.data);
  for (std::int64_t i = 0; i < num_kept; ++i)
    std::memmove(data + i * step, data + rows[i] * step, static_cast<std::size_t>(step));
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
