# Sets CUTLASS_INCLUDE_DIR: of -DCUTLASS_DIR, or of the PyPI package nvidia-cutlass in the building Python, which
# build_backend.py asks for; else empty.
set(CUTLASS_DIR "" CACHE PATH "A folder that holds include/cutlass/cutlass.h")
set(CUTLASS_INCLUDE_DIR "")
# find_spec, not import: importing cutlass_library runs its generator.
execute_process(COMMAND ${Python_EXECUTABLE} -c
  "import importlib.util, os; s = importlib.util.find_spec('cutlass_library'); print(os.path.join(os.path.dirname(s.origin), 'source') if s else '', end='')"
  OUTPUT_VARIABLE cutlass_wheel ERROR_QUIET)
foreach(folder IN ITEMS "${CUTLASS_DIR}" "${cutlass_wheel}")
  if(folder AND EXISTS "${folder}/include/cutlass/cutlass.h")
    set(CUTLASS_INCLUDE_DIR "${folder}/include")
    break()
  endif()
endforeach()
if(NOT CUTLASS_INCLUDE_DIR)
  message(WARNING "llada: no headers of CUTLASS, so the CUDA backend is built without its products: expected the PyPI "
    "package nvidia-cutlass==4.2.0.0 in the building Python (pip install --no-deps is enough), or -DCUTLASS_DIR")
endif()
