// What -fsanitize=alignment calls where an address is not a multiple of what its type needs: a GPU would stop there,
// x86 may not. Defined here, so that no library of the compiler has to be loaded before the tests. And a door to a
// kernel that is wrong on purpose.
#include <cstdio>
#include <exception>

#include "cuda/device/api.h"
#include "cuda/device/instructions.cuh"

namespace {

// As the compiler lays them out: compiler-rt/lib/ubsan/ubsan_value.h and ubsan_handlers.h of LLVM; GCC follows them.
struct TypeName {
  std::uint16_t kind, info;
  char text[1];  // goes on until its zero
};
struct Mismatch {
  const char* file;
  std::uint32_t line, column;
  const TypeName* type;
  unsigned char log_alignment, access;
};

}  // namespace

// The compiler takes it for a function that never throws, and goes on with an instruction that may crash: so this does
// not come back to a kernel. Host code goes on, as it would without the check.
extern "C" void __ubsan_handle_type_mismatch_v1(const Mismatch* mismatch, std::uintptr_t address) {
  char text[512];
  std::snprintf(text, sizeof text, "address %#zx of %s is not a multiple of %u (%s:%u)",
                static_cast<std::size_t>(address), mismatch->type->text, 1u << mismatch->log_alignment, mismatch->file,
                static_cast<unsigned>(mismatch->line));
  cuda_host::fail_kernel(text);
}

namespace llada::cuda {
namespace {

template <class T>
__global__ void copy_kernel(const T* from, T* to) {
  begin_kernel();
  to[threadIdx.x] = from[threadIdx.x];
}

template <class T>
void copy(const char* from, char* to, bool in_kernel, cudaStream_t stream) {
  const T* const values = reinterpret_cast<const T*>(from);
  T* const out = reinterpret_cast<T*>(to);
  if (in_kernel)
    launch("copy_kernel", copy_kernel<T>, dim3(1), 32, 0, stream, values, out);
  else
    *out = *values;
}

}  // namespace

// Copies 32 values of num_bytes (4, 8, 16) each, in a kernel, or one of them on the host. Returns what went wrong, in
// words that stay until the next call, or nullptr.
extern "C" __attribute__((visibility("default"))) const char* llada_copy_values(int num_bytes, const char* from,
                                                                                char* to, bool in_kernel) {
  static std::string words;
  const cudaStream_t stream = create_stream();
  const char* wrong = nullptr;
  try {
    if (num_bytes == 4) copy<float>(from, to, in_kernel, stream);
    if (num_bytes == 8) copy<float2>(from, to, in_kernel, stream);
    if (num_bytes == 16) copy<uint4>(from, to, in_kernel, stream);
  } catch (const std::exception& error) {
    words = error.what();
    wrong = words.c_str();
  }
  destroy_stream(stream);
  return wrong;
}

}  // namespace llada::cuda
