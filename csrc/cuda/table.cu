// The table, and the device that its ops run on. A field that is left out does not compile (in the imitation).
#include "cuda/attention/plan.h"
#include "cuda/device/session.h"
#include "cuda/kernels.h"
#include "cuda/table.h"

namespace llada::cuda {
namespace {

Session& session(void* handle) { return *static_cast<Session*>(handle); }

const Device kDevice = {
    .open = [](int index, void* stream) -> void* { return new Session(index, static_cast<cudaStream_t>(stream)); },
    .close = [](void* handle) { delete static_cast<Session*>(handle); },
    .allocate = [](void* handle, std::int64_t num_bytes) { return session(handle).allocate(num_bytes); },
    .release = [](void* handle, void* memory) { session(handle).release(memory); },
    .upload = [](void* handle, const void* host, std::int64_t num_bytes,
                 void* memory) { session(handle).upload(host, num_bytes, memory); },
    .download = [](void* handle, const void* memory, std::int64_t num_bytes,
                   void* host) { session(handle).download(memory, num_bytes, host); },
    .clear = [](void* handle, void* memory, std::int64_t num_bytes) { session(handle).clear(memory, num_bytes); },
    .copy = [](void* handle, const void* from, std::int64_t num_bytes,
               void* to) { session(handle).copy(from, num_bytes, to); },
    .discard = [](void* handle) { session(handle).discard(); },
    .free_bytes = [](void* handle) { return session(handle).free_bytes(); },
    .counts = [](void* handle) { return session(handle).counts(); },
};

const Ops kTable = {
    .name = "cuda",
    .device = &kDevice,
    .row_bucket = 32,
    .multiplies = multiplies,
    .packed_bytes = packed_bytes,
    .pack = pack,
    .packed_row_bytes = packed_row_bytes,
    .embed = embed,
    .rms_norm = rms_norm,
    .keep_rows = keep_rows,
    .quantize = quantize,
    .matmul = matmul,
    .matmul_swiglu = matmul_swiglu,
    .rope = rope,
    .rope_kv_write = rope_kv_write,
    .rope_kvq = rope_kvq,
    .attention = attention,
    .candidates = candidates,
    .commit = commit,
    .finish = finish,
    .measure_peak = measure_peak,
};

}  // namespace

const Ops& table() { return kTable; }

std::int64_t session_bytes() { return 2 * kStagingBytes + kMostPartialBytes + kMostPartialBytes / 16; }

void finish(Stream stream) { session_of(stream).finish(); }

}  // namespace llada::cuda
