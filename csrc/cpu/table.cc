// One table of CPU ops: compiled once for each instruction set. A field that is left out does not compile.
#include "cpu/kernels.h"
#include "cpu/tables.h"

#define LLADA_TEXT(x) #x
#define LLADA_NAME(x) LLADA_TEXT(x)

namespace llada::cpu::LLADA_TABLE {

extern const Ops table;
const Ops table = {
    .name = LLADA_NAME(LLADA_TABLE),
    .device = nullptr,
    .row_bucket = 1,
    .multiplies = multiplies,
    .packed_bytes = packed_bytes,
    .pack = pack,
    .packed_row_bytes = [](const PackedWeight&) { return std::int64_t{0}; },
    .embed = embed,
    .rms_norm = rms_norm,
    .keep_rows = keep_rows,
    .quantize = quantize,
    .matmul = matmul,
    .matmul_swiglu = matmul_swiglu,
    .rope = rope,
    .rope_kv_write = rope_kv_write,
    .rope_kvq = nullptr,
    .attention = attention,
    .candidates = candidates,
    .commit = commit,
    .finish = finish,
    .measure_peak = measure_peak,
};

}  // namespace llada::cpu::LLADA_TABLE
