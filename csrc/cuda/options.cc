#include "cuda/options.h"

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
  return on == "1" && facts.capability >= 90;
}

}  // namespace

SessionOptions session_options(const DeviceFacts& facts) {
  const std::string ahead = asked_for("LLADA_CUDA_AHEAD_MB");
  return {wants_cutlass(facts), wants_early_launch(facts),
          ahead.empty() ? std::int64_t{16} << 20 : std::stoll(ahead) << 20};
}

bool has_cutlass() {
#if defined(LLADA_HAVE_CUTLASS)
  return true;
#else
  return false;
#endif
}

}  // namespace llada::cuda
