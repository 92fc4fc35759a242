#!/usr/bin/env bash
# Fuzzes every reader of files from elsewhere under AddressSanitizer and UndefinedBehaviorSanitizer
# (clang, libFuzzer), then prints executions and coverage. docs/fuzzing.md has the figures.
# Usage: fuzz.sh [EXECUTIONS [TARGET...]]   default: 1000000 of every target
#        fuzz.sh coverage                   line coverage of the readers by the committed corpora
#        fuzz.sh minimise                   what build/fuzz-work found, minimised, into tests/fuzz/corpus
# LONGGEN_FUZZ_SECONDS ends each target early; JOBS targets run at once (default: the processors).
set -euo pipefail
cd "$(dirname "$0")/.."
command -v clang++ >/dev/null || { echo "error: fuzzing needs clang (apt-get install clang llvm)" >&2; exit 1; }
jobs=${JOBS:-$(nproc)}
work=build/fuzz-work
corpus=tests/fuzz/corpus
bin=${LONGGEN_FUZZ_BUILD:-build/fuzz}/bin
export ASAN_OPTIONS=detect_leaks=1:allocator_may_return_null=0 UBSAN_OPTIONS=print_stacktrace=1

all_targets() { ls "$corpus"; }

build() { # PRESET TARGET
  [ -n "${LONGGEN_FUZZ_BUILD:-}" ] && return
  cmake --preset "$1" >/dev/null
  cmake --build "build/$1" -j "$jobs" --target "$2"
}

fuzz_one() { # TARGET EXECUTIONS
  local dictionary=()
  [ -f "tests/fuzz/dictionaries/$1.dict" ] && dictionary=(-dict="tests/fuzz/dictionaries/$1.dict")
  mkdir -p "$work/$1" "$work/found/$1"
  # A second is the mark for a hang; a busy machine gets ten before an input is called one.
  "$bin/fuzz_$1" -runs="$2" -max_total_time="${LONGGEN_FUZZ_SECONDS:-0}" -max_len=4096 -timeout=10 \
    -rss_limit_mb=512 -malloc_limit_mb=256 -print_final_stats=1 "${dictionary[@]}" \
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
  build fuzz fuzzers
  mkdir -p "$work"
  export work corpus bin
  export -f fuzz_one
  local status=0
  printf '%s\n' "$@" | xargs -P "$jobs" -I{} bash -c "fuzz_one {} $executions" || status=1
  rm -rf /dev/shm/longgen-fuzz-*
  report "$@"
  return $status
}

minimise() {
  for target in $(all_targets); do
    mkdir -p "$work/small/$target"
    "$bin/fuzz_$target" -set_cover_merge=1 -max_len=4096 "$work/small/$target" "$corpus/$target" "$work/$target" \
      >"$work/$target.merge.log" 2>&1
    rm -rf "${corpus:?}/$target"
    mv "$work/small/$target" "$corpus/$target"
  done
  du -sh --apparent-size "$corpus"
}

coverage() {
  build fuzz-coverage test_fuzz
  local program=build/fuzz-coverage/bin/test_fuzz
  mkdir -p "$work"
  LLVM_PROFILE_FILE=$work/replay.profraw "$program" --gtest_brief=1 --gtest_filter='Corpus*'
  llvm-profdata merge -sparse "$work/replay.profraw" -o "$work/replay.profdata"
  llvm-cov report "$program" -instr-profile="$work/replay.profdata" \
    longgen/formats longgen/tokenizer longgen/data longgen/train/recipe*.cpp \
    longgen/train/run_state.cpp longgen/pattern longgen/base/mapped_file.cpp
}

case ${1:-} in
  coverage) coverage ;;
  minimise) minimise ;;
  *)
    executions=${1:-1000000}
    shift $(($# > 0))
    # shellcheck disable=SC2046
    fuzz "$executions" ${@:-$(all_targets)}
    ;;
esac
