#!/usr/bin/env bash
# Fuzzes every reader of files from elsewhere under AddressSanitizer and UndefinedBehaviorSanitizer
# (clang, libFuzzer), then prints executions and coverage. docs/fuzzing.md has the figures.
# Usage: fuzz.sh [EXECUTIONS [TARGET...]]   default: 1000000 of every target
#        fuzz.sh coverage                   line coverage of the readers by the committed corpora
#        fuzz.sh minimise [TARGET...]       what build/fuzz-work found, minimised, into tests/fuzz/corpus
# LONGGEN_FUZZ_SECONDS ends each target early; JOBS targets run at once (default: the processors).
set -euo pipefail
cd "$(dirname "$0")/.."
command -v clang++ >/dev/null || { echo "error: fuzzing needs clang (apt-get install clang llvm)" >&2; exit 1; }
jobs=${JOBS:-$(nproc)}
work=build/fuzz-work
corpus=tests/fuzz/corpus
bin=${LONGGEN_FUZZ_BUILD:-build/fuzz}/bin
# Where memory came from is not kept: it takes a third of the time, and a finding is run again anyway.
export ASAN_OPTIONS=detect_leaks=1:allocator_may_return_null=0:malloc_context_size=0:quarantine_size_mb=16
export UBSAN_OPTIONS=print_stacktrace=1

all_targets() { ls "$corpus"; }

build() { # PRESET TARGET
  [ -n "${LONGGEN_FUZZ_BUILD:-}" ] && return
  cmake --preset "$1" >/dev/null
  cmake --build "build/$1" -j "$jobs" --target "$2"
}

# Bytes of an input at most: what the target reads is shorter than a file, or a whole file.
max_len() {
  case $1 in
    tokenizer_text | hybrid_spec) echo 512 ;;
    gguf | gguf_parts | model_directory) echo 16384 ;;
    *) echo 4096 ;;
  esac
}

fuzz_one() { # TARGET EXECUTIONS
  local options=(-max_len="$(max_len "$1")")
  [ -f "tests/fuzz/dictionaries/$1.dict" ] && options+=(-dict="tests/fuzz/dictionaries/$1.dict")
  # libFuzzer's preference for rare features takes up to half of the time where inputs have many;
  # texts need it to stay short.
  [ "$1" = tokenizer_text ] || options+=(-entropic=0)
  mkdir -p "$work/$1" "$work/found/$1"
  # A second is the mark for a hang; a busy machine gets ten before an input is called one.
  LONGGEN_FUZZ_TARGET=$1 "$bin/fuzz_readers" -runs="$2" -max_total_time="${LONGGEN_FUZZ_SECONDS:-0}" \
    -timeout=10 -rss_limit_mb=2048 -malloc_limit_mb=256 -print_final_stats=1 "${options[@]}" \
    -artifact_prefix="$work/found/$1/" "$work/$1" "$corpus/$1" >"$work/$1.log" 2>&1 ||
    { echo "$1: FOUND something; see $work/$1.log and $work/found/$1" >&2; return 1; }
}

report() {
  printf '%-22s %12s %8s %9s\n' target executions edges slowest
  for target in "$@"; do
    local log=$work/$target.log
    printf '%-22s %12s %8s %7s s\n' "$target" \
      "$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")" \
      "$(grep -ao ' cov: [0-9]*' "$log" | tail -1 | tr -dc 0-9)" \
      "$(sed -n 's/^stat::slowest_unit_time_sec: *//p' "$log")"
  done
}

fuzz() { # EXECUTIONS TARGET...
  local executions=$1
  shift
  build fuzz fuzz_readers
  mkdir -p "$work"
  export work corpus bin
  export -f fuzz_one max_len
  local status=0
  printf '%s\n' "$@" | xargs -P "$jobs" -I{} bash -c "fuzz_one {} $executions" || status=1
  rm -rf /dev/shm/longgen-fuzz-*
  report "$@"
  return $status
}

# The fewest files that reach every edge that all together reach; seeds, and what was once a defect
# (found-*), stay.
minimise() { # TARGET...
  build fuzz fuzz_readers
  for target in "$@"; do
    local found=()
    [ -d "$work/$target" ] && found=("$work/$target")
    mkdir -p "$work/small/$target"
    LONGGEN_FUZZ_TARGET=$target "$bin/fuzz_readers" -set_cover_merge=1 -use_counters=0 -max_len=16384 \
      "$work/small/$target" "$corpus/$target" "${found[@]}" >"$work/$target.merge.log" 2>&1
    find "$corpus/$target" -type f ! -name 'seed-*' ! -name 'found-*' -delete
    mv "$work/small/$target"/* "$corpus/$target"
  done
  du -sh --apparent-size "$corpus"
}

coverage() {
  build fuzz-coverage test_fuzz
  local program=build/fuzz-coverage/bin/test_fuzz
  mkdir -p "$work"
  LLVM_PROFILE_FILE=$work/replay.profraw "$program" --gtest_brief=1 --gtest_filter='Corpus*'
  llvm-profdata merge -sparse "$work/replay.profraw" -o "$work/replay.profdata"
  # What only writes, packs or parses flags is no reader.
  llvm-cov report "$program" -instr-profile="$work/replay.profdata" \
    -ignore-filename-regex='(model_writer|recipe_flags|packer|corpus|synthetic_text|token_cache)\.' \
    longgen/formats longgen/tokenizer longgen/data longgen/train/recipe*.cpp \
    longgen/train/run_state.cpp longgen/pattern longgen/base/mapped_file.cpp
}

case ${1:-} in
  coverage) coverage ;;
  minimise)
    shift
    # shellcheck disable=SC2046,SC2068
    minimise ${@:-$(all_targets)}
    ;;
  *)
    executions=${1:-1000000}
    shift $(($# > 0))
    # shellcheck disable=SC2046,SC2068
    fuzz "$executions" ${@:-$(all_targets)}
    ;;
esac
