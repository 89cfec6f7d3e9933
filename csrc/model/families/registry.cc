#include "model/families/registry.h"

#include <algorithm>

#include "core/check.h"
#include "core/text.h"

// A line for each family: the name of its record in families/<name>.cc. Where several families share a model_type and
// `architectures` does not help, the first of them is meant.
#define LLADA_FAMILIES(FAMILY) FAMILY(kLlada)

namespace llada {

#define LLADA_DECLARE(family) extern const Family family;
LLADA_FAMILIES(LLADA_DECLARE)
#undef LLADA_DECLARE

std::span<const Family* const> known_families() {
#define LLADA_ADDRESS(family) &family,
  static constexpr const Family* kFamilies[] = {LLADA_FAMILIES(LLADA_ADDRESS)};
#undef LLADA_ADDRESS
  return kFamilies;
}

const Family& find_family(std::string_view model_type, const std::vector<std::string>& architectures,
                          std::span<const Family* const> families) {
  const Family* found = nullptr;
  std::string known;
  for (const Family* family : families) {
    known += std::string(known.empty() ? "\"" : ", \"") + family->model_type + "\" (" + family->name + ")";
    if (model_type != family->model_type) continue;
    if (std::count(architectures.begin(), architectures.end(), family->architecture) > 0) return *family;
    if (found == nullptr) found = family;
  }
  check(found != nullptr, ErrorKind::kUnsupportedModel, "config.json: model_type: expected one of ", known, ", got \"",
        excerpt(model_type), "\"");
  return *found;
}

}  // namespace llada
