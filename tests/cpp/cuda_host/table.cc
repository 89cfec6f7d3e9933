// The door to the imitated backend: tests load this library and hand its table to llada_rt._core.
#include "cuda/table.h"

#include "ops/offer.h"

extern "C" __attribute__((visibility("default"))) const void* llada_cuda_offer() {
  static const llada::TableOffer kOffer = llada::offer(llada::cuda::table());
  return &kOffer;
}
