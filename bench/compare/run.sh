#!/usr/bin/env bash
# Peers and longgen side by side: installs the peers once, then hands its arguments to compare.py.
#
#   bench/compare/run.sh                                      # every row; an hour or more on two cores
#   bench/compare/run.sh --rows prefill-2k decode-0 --threads 2
#   bench/compare/run.sh --isa avx2 --rows prefill-2k         # longgen and llama.cpp held to AVX2
#   bench/compare/run.sh --python python3 --llama-bench PATH  # nothing is installed
#
# What is installed goes to ${LONGGEN_COMPARE:-build/compare}: PyTorch and Transformers (CPU wheels),
# llama-cpp-python built from source for this processor.
set -euo pipefail
cd "$(dirname "$0")/../.."
here=bench/compare
home=${LONGGEN_COMPARE:-build/compare}
llama_version=0.3.36
isa='' python='' llama_bench='' list=''
for ((i = 1; i <= $#; ++i)); do
  next=$((i + 1))
  case "${!i}" in
    --isa) isa=${!next:-} ;;
    --python) python=${!next:-} ;;
    --llama-bench) llama_bench=${!next:-} ;;
    --list | -h | --help) list=1 ;;
  esac
done
[ -z "$list" ] || exec python3 $here/compare.py "$@"
python3 $here/compare.py "$@" --check  # before anything is installed

make_venv() {
  [ -x "$home/venv/bin/python" ] || python3 -m venv "$home/venv"
  pip="$home/venv/bin/pip --quiet --disable-pip-version-check"
}

# The AMX path of llama.cpp dies with SIGILL when gcc 12 compiles it: its _tile_loadconfig() names
# 8 bytes of the 64 that it reads, so stores to the others may be dropped. A clobber keeps them.
patched_source() {
  local folder=$home/src/llama_cpp_python-$llama_version
  if [ ! -d "$folder" ]; then
    mkdir -p "$home/src"
    $pip download --no-binary :all: --no-deps --no-build-isolation -d "$home/src" \
      "llama-cpp-python==$llama_version" >&2
    tar xf "$home/src/llama_cpp_python-$llama_version.tar.gz" -C "$home/src"
    sed -i 's|^\( *\)_tile_loadconfig(&tc);|\1__asm__ volatile("" : : "r"(\&tc) : "memory");\n&|' \
      "$folder/vendor/llama.cpp/ggml/src/ggml-cpu/amx/mmq.cpp"
  fi
  echo "$folder"
}

flags_of() {
  local off="-DGGML_NATIVE=OFF"
  case "$1" in
    "") echo "-DGGML_NATIVE=ON" ;;
    avx2) echo "$off -DGGML_AVX=ON -DGGML_AVX2=ON -DGGML_FMA=ON -DGGML_F16C=ON" ;;
    avx512) echo "$(flags_of avx2) -DGGML_AVX512=ON" ;;
    avx512bf16) echo "$(flags_of avx512) -DGGML_AVX512_VNNI=ON -DGGML_AVX512_BF16=ON" ;;
    amx) echo "$(flags_of avx512bf16) -DGGML_AMX_TILE=ON -DGGML_AMX_INT8=ON -DGGML_AMX_BF16=ON" ;;
    *) echo "error: --isa $1: use avx2, avx512, avx512bf16 or amx" >&2; exit 2 ;;
  esac
}

# A build for one instruction set lives in a folder of its own, found through PYTHONPATH.
install_llama() {
  local target=$home/llama-${isa:-native}
  export LONGGEN_COMPARE_LLAMA=$target
  [ -d "$target/llama_cpp" ] && return
  echo "Building llama-cpp-python $llama_version for ${isa:-this processor} (some minutes)" >&2
  $pip install scikit-build-core cmake ninja numpy typing-extensions diskcache jinja2
  local source flags
  source=$(patched_source)
  flags="$(flags_of "$isa") -DLLAVA_BUILD=OFF -DLLAMA_CURL=OFF -DLLAMA_OPENSSL=OFF"
  CMAKE_ARGS="$flags" CMAKE_BUILD_PARALLEL_LEVEL=$(nproc) PATH="$PWD/$home/venv/bin:$PATH" \
    $pip install --no-build-isolation --no-deps --target "$target" "$source"
}

if [ -z "$python" ]; then
  make_venv
  python=$home/venv/bin/python
  if ! "$python" -c 'import torch, transformers' 2>/dev/null; then
    echo "Installing PyTorch (CPU) and Transformers" >&2
    # The CPU wheels are smaller; where only PyPI is reached, its own do.
    $pip install torch --retries 0 --index-url https://download.pytorch.org/whl/cpu 2>/dev/null ||
      $pip install torch
    $pip install numpy transformers
  fi
  if [ -z "$llama_bench" ]; then install_llama; fi
  set -- --work "$home" "$@" --python "$python"
fi
exec "$python" $here/compare.py "$@"
