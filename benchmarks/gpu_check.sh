#!/usr/bin/env bash
# Everything that a machine with a GPU can say about the CUDA backend, in one command, without a network:
#
#   bash benchmarks/gpu_check.sh [OUTPUT]      (OUTPUT: a folder, by default runs/gpu)
#
# Builds the two modules with the tools that are there (nvcc, cmake, ninja, pybind11), runs every test of the backend on
# the GPU, looks for races and stray reads on small sizes, then measures. Leaves report.json, report.txt and logs in
# OUTPUT. Python packages that are missing may lie as wheels in .whl/, recorded runs in golden/ (both git-ignored).
# Exit codes: 0 all is well, 1 something failed (the rest was run nevertheless), 4 no GPU.
set -uo pipefail
cd "$(dirname "$0")/.."

output=${1:-runs/gpu}
mkdir -p "$output"
python=${PYTHON:-python3}
failed=0

if ! nvidia-smi -L >"$output/gpu.txt" 2>&1; then
  echo "no GPU: nvidia-smi finds none on this machine"
  exit 4
fi
cat "$output/gpu.txt"
if compgen -G '.whl/*.whl' >/dev/null; then
  "$python" -m pip install --quiet --no-index --no-deps --target build/site .whl/*.whl || exit 1
  export PYTHONPATH="$PWD/build/site${PYTHONPATH:+:$PYTHONPATH}"
fi
export PYTHONPATH="$PWD/python:$PWD${PYTHONPATH:+:$PYTHONPATH}"
# Recorded runs are looked for beside the checkout.
if [ -d golden ] && [ ! -e ../shared/golden ]; then
  mkdir -p ../shared && cp -r golden ../shared/golden
fi

part() {  # part NAME COMMAND...: runs it, with its log and its time
  local name=$1 began=$SECONDS
  shift
  if "$@" >"$output/$name.log" 2>&1; then
    echo "$name: done in $((SECONDS - began)) s"
  else
    echo "$name: FAILED after $((SECONDS - began)) s, see $output/$name.log"
    tail -n 30 "$output/$name.log"
    failed=1
    return 1
  fi
}

build() {
  # Only for the GPU that is here: a fat build takes minutes more.
  local capability
  capability=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader | head -1 | tr -d .)
  [ "$capability" -ge 90 ] && capability="${capability}a"
  cmake -S . -B build/gpu -G Ninja -DLLADA_CUDA=ON -DLLADA_CUDA_ARCHS="$capability-real" \
    -DPython_EXECUTABLE="$(command -v "$python")" -Dpybind11_DIR="$("$python" -m pybind11 --cmakedir)" &&
    ninja -C build/gpu _core _cuda &&
    cp build/gpu/_core*.so build/gpu/_cuda*.so python/llada_rt/
}

part build build || exit 1
if ! "$python" -c 'from llada_rt import device; raise SystemExit(device.missing_cuda() or 0)'; then
  echo "no GPU: the backend cannot use the one that is here"
  exit 4
fi
part tests "$python" -m pytest -q -p no:cacheprovider tests/cuda tests/ops -k cuda -m 'not slow'
part golden "$python" -m pytest -q -p no:cacheprovider tests/cuda -m gpu
part memcheck compute-sanitizer --tool memcheck --error-exitcode 1 \
  "$python" -m pytest -q -p no:cacheprovider tests/cuda/test_engine_on_cuda.py -k 'neighbours or graph or agree'
part racecheck compute-sanitizer --tool racecheck --error-exitcode 1 \
  "$python" -m pytest -q -p no:cacheprovider tests/cuda/test_engine_on_cuda.py -k 'agree and bfloat16'
folder=$(mktemp -d -p /dev/shm 2>/dev/null || mktemp -d)
part benchmark "$python" -m benchmarks.bench_cuda --output "$output/report.json" --folder "$folder"
rm -rf "$folder"

{
  date -u +%Y-%m-%dT%H:%M:%SZ
  git rev-parse --short HEAD 2>/dev/null || true
  cat "$output/gpu.txt"
  for log in tests golden memcheck racecheck; do
    echo "$log: $(tail -n 1 "$output/$log.log" 2>/dev/null)"
  done
  cat "$output/benchmark.log"
} >"$output/report.txt"
cat "$output/report.txt"
exit "$failed"
