#include "cuda/device/options.h"

#include <cstdlib>
#include <string>

#include "core/check.h"

namespace llada::cuda {
namespace {

std::string asked_for(const char* variable) {
  const char* const value = std::getenv(variable);
  return value == nullptr ? "" : value;
}

bool wants_cutlass(const DeviceFacts& facts) {
  const std::string tier = asked_for("LLADA_CUDA_PRODUCTS");
  check(tier.empty() || tier == "plain" || tier == "cutlass", ErrorKind::kConfig,
        "LLADA_CUDA_PRODUCTS: expected plain or cutlass, got \"", tier, "\"");
  check(tier != "cutlass" || has_cutlass(), ErrorKind::kConfig,
        "LLADA_CUDA_PRODUCTS=cutlass: this build has no CUTLASS (install nvidia-cutlass, build again)");
  return tier.empty() ? has_cutlass() && facts.capability == 90 : tier == "cutlass";
}

bool wants_early_launch(const DeviceFacts& facts) {
  const std::string on = asked_for("LLADA_CUDA_EARLY_LAUNCH");
  check(on.empty() || on == "0" || on == "1", ErrorKind::kConfig, "LLADA_CUDA_EARLY_LAUNCH: expected 0 or 1, got \"",
        on, "\"");
  return on != "0" && facts.capability >= 90;
}

}  // namespace

SessionOptions session_options(const DeviceFacts& facts) { return {wants_cutlass(facts), wants_early_launch(facts)}; }

bool has_cutlass() {
#if defined(LLADA_HAVE_CUTLASS)
  return true;
#else
  return false;
#endif
}

}  // namespace llada::cuda
