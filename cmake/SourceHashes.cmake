# LLADA_OPS_HASH: of the page of ops and of what else passes between the two modules, by which they know each other
# (ops/offer.h); tests/cuda_host.py takes the same one. LLADA_SOURCES_HASH: of everything that is compiled, by which a
# prebuilt module is known to be of a tree; benchmarks/gpu/sources.py takes the same one.
set(hashes "")
foreach(header IN ITEMS core/check.h core/dtype.h core/parallel.h core/tensor.h ops/ops.h)
  file(SHA256 "${CMAKE_SOURCE_DIR}/csrc/${header}" hash)
  string(APPEND hashes "${hash}")
endforeach()
string(SHA256 LLADA_OPS_HASH "${hashes}")
string(SUBSTRING "${LLADA_OPS_HASH}" 0 16 LLADA_OPS_HASH)

file(GLOB_RECURSE sources CONFIGURE_DEPENDS RELATIVE "${CMAKE_SOURCE_DIR}" "${CMAKE_SOURCE_DIR}/csrc/*" "${CMAKE_SOURCE_DIR}/cmake/*.cmake")
list(APPEND sources CMakeLists.txt)
list(SORT sources)
set(listed "")
foreach(source IN LISTS sources)
  file(SHA256 "${CMAKE_SOURCE_DIR}/${source}" hash)
  string(APPEND listed "${source} ${hash}\n")
  set_property(DIRECTORY "${CMAKE_SOURCE_DIR}" APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS "${CMAKE_SOURCE_DIR}/${source}")
endforeach()
string(SHA256 LLADA_SOURCES_HASH "${listed}")
string(SUBSTRING "${LLADA_SOURCES_HASH}" 0 16 LLADA_SOURCES_HASH)

# A file of its own: what changes with every edit recompiles nothing else.
file(CONFIGURE OUTPUT "${CMAKE_BINARY_DIR}/build_facts.cc" @ONLY CONTENT
"#include \"bindings/build_facts.h\"

namespace llada {

const char* const kSourcesHash = \"@LLADA_SOURCES_HASH@\";

}  // namespace llada
")
