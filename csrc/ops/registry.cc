#include "ops/registry.h"

#include "core/check.h"
#include "core/text.h"

namespace llada {
namespace {

std::vector<const Ops*>& registered() {
  static std::vector<const Ops*> list;
  return list;
}

}  // namespace

void register_table(const Ops* table) { registered().push_back(table); }

const std::vector<const Ops*>& tables() { return registered(); }

const Ops& find_table(const std::string& name) {
  std::string known;
  for (const Ops* table : registered()) {
    if (name.empty() || name == table->name) return *table;
    known += (known.empty() ? "" : ", ") + std::string(table->name);
  }
  fail(ErrorKind::kDevice, "expected one of the instruction-set tables of this machine (", known, "), got \"",
       excerpt(name), "\"");
}

}  // namespace llada
