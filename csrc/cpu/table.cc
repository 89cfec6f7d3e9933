// One table of CPU ops: compiled once for each instruction set.
#include "cpu/kernels.h"
#include "cpu/tables.h"

#define LLADA_TEXT(x) #x
#define LLADA_NAME(x) LLADA_TEXT(x)

namespace llada::cpu::LLADA_TABLE {

extern const Ops table;
const Ops table = {LLADA_NAME(LLADA_TABLE),
                   /*device=*/nullptr,
                   /*row_bucket=*/1,
                   multiplies,
                   packed_bytes,
                   pack,
                   /*packed_row_bytes=*/[](const PackedWeight&) { return std::int64_t{0}; },
                   embed,
                   rms_norm,
                   keep_rows,
                   quantize,
                   matmul,
                   matmul_swiglu,
                   rope,
                   rope_kv_write,
                   /*rope_kvq=*/nullptr,
                   attention,
                   candidates,
                   commit,
                   finish,
                   measure_peak};

}  // namespace llada::cpu::LLADA_TABLE
