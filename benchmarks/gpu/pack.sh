#!/usr/bin/env bash
# Packs a kit for a machine with a GPU, on one with nvcc and without a GPU: a wheel for its Python with CUTLASS in, the
# tree that the wheel was made from, recorded runs. There benchmarks/gpu/check.py then needs neither compiler nor network.
#
#   bash benchmarks/gpu/pack.sh [PYTHON]      (PYTHON: the version that the other machine has, by default python3.12)
#
# Leaves flight/ (git-ignored, under 40 MB): wheel/, tree/, shared/golden/ where recorded runs lie beside the checkout.
# The wheel takes about seven minutes of a core and is made again only when the sources have changed.
set -euo pipefail
cd "$(dirname "$0")/../.."

python=${1:-python3.12}
kit=flight
archs=${LLADA_CUDA_ARCHS:-90a-real}
command -v nvcc >/dev/null || {
  echo "pack.sh: expected nvcc on the PATH, found none"
  exit 1
}
tag=$("$python" -c 'import sys; print(f"cp{sys.version_info[0]}{sys.version_info[1]}")')
hash=$(python3 -m benchmarks.gpu.sources)
# The wheel holds the Python package too, which needs no compiler: its files count as well.
package=$(git ls-files -z -- python pyproject.toml | sort -z | xargs -0 sha256sum | sha256sum | cut -c1-16)
made=build/wheels/$tag-$archs-$hash-$package

if ! compgen -G "$made/*.whl" >/dev/null; then
  echo "making a wheel of sources $hash for $tag, $archs: some minutes"
  venv=build/pack-venv-$tag
  [ -d "$venv" ] || "$python" -m venv "$venv"
  "$venv/bin/pip" install --quiet 'scikit-build-core>=0.11,<2' 'pybind11>=3.0,<4' cmake ninja
  "$venv/bin/pip" install --quiet --no-deps 'nvidia-cutlass==4.2.0.0'  # headers alone
  rm -rf "$made"
  CMAKE_ARGS="-DLLADA_CUDA=ON -DLLADA_CUDA_ARCHS=$archs" PATH="$PWD/$venv/bin:$PATH" CMAKE_BUILD_PARALLEL_LEVEL=2 \
    "$venv/bin/pip" wheel --quiet --no-build-isolation --no-deps -w "$made" .
fi

rm -rf "$kit"
mkdir -p "$kit/wheel" "$kit/tree"
cp "$made"/*.whl "$kit/wheel/"
git ls-files -z --cached --others --exclude-standard -- \
  CMakeLists.txt cmake csrc pyproject.toml README.md LICENSE benchmarks/gpu 'benchmarks/*.py' 'benchmarks/baselines' \
  tests training python/llada_rt/demo ':!training/tasks/*.jsonl' |
  while IFS= read -r -d '' file; do [ ! -e "$file" ] || printf '%s\0' "$file"; done |
  tar --null --files-from=- -cf - | tar -C "$kit/tree" -xf -
git rev-parse HEAD >"$kit/tree/COMMIT"
git diff --quiet HEAD -- || echo "with changes that are not committed" >>"$kit/tree/COMMIT"
if [ -d ../shared/golden ]; then
  mkdir -p "$kit/shared"
  cp -r ../shared/golden "$kit/shared/golden"
fi
du -sh "$kit" | cut -f1
