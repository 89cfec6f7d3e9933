// The door to the imitated backend: tests load this library and hand its table to llada_rt._core.
#include "cuda/table.h"

extern "C" __attribute__((visibility("default"))) const void* llada_cuda_table() { return &llada::cuda::table(); }
