#!/usr/bin/env bash
# The small GPU tests, of every kernel, under compute-sanitizer.   usage: sanitize.sh TEST_CUDA [TOOL...]
# Tools (memcheck, initcheck, synccheck) and groups of tests run side by side; each prints the end of
# its output, and the exit code is 1 if one found something or a test failed.
set -uo pipefail
program=${1:?usage: sanitize.sh TEST_CUDA [TOOL...]}
shift
tools=("$@")
[ ${#tools[@]} -gt 0 ] || tools=(memcheck initcheck synccheck)
if "$program" --gtest_filter=CudaSteps.GraphsTakeWhatChanges 2>&1 | grep -q '\[  SKIPPED \]'; then
  echo "no GPU: skipped" >&2
  exit 77
fi
sanitizer=$(command -v compute-sanitizer || echo /usr/local/cuda/bin/compute-sanitizer)
if ! [ -x "$sanitizer" ]; then
  echo "no compute-sanitizer: skipped" >&2
  exit 77
fi
groups=(
  'CudaAttention.Small*:CudaSteps.*:CudaTrainingMemory.AdamW*'
  # Without products that cuBLASLt forms: its large kernels take minutes under synccheck.
  'All/CudaRows.*-*.LinearForward*:*.LargeProducts*:*.LinearBackward*:*FewRows*'
  'All/CudaRows.*FewRows*/bf16:All/CudaRows.LinearBackward/bf16'
  'Tiny/CudaModel.*/llama_bf16:Tiny/CudaTraining.*/llama_bf16'
)

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
declare -A jobs
for tool in "${tools[@]}"; do
  for i in "${!groups[@]}"; do
    options=()
    case "$tool.$i" in
      initcheck.3) continue ;; # it may crash in graph launches (docs/kernels.md)
      # Over a model's thousands of launches its list of barriers overflows; group 2 has these kernels.
      synccheck.3) options=(--kernel-name-exclude kernel_substring=few_rows) ;;
    esac
    LONGGEN_REQUIRE_GPU=1 timeout "${LIMIT:-600}" "$sanitizer" --tool "$tool" --error-exitcode 99 --print-limit 10 \
      "${options[@]}" \
      "$program" --gtest_filter="${groups[i]}" > "$folder/$tool.$i" 2>&1 &
    jobs[$tool.$i]=$!
  done
done
failed=0
for job in "${!jobs[@]}"; do
  wait "${jobs[$job]}"
  code=$?
  [ $code -eq 0 ] || failed=1
  echo "$job: exit code $code"
  [ $code -eq 0 ] && tail -n 2 "$folder/$job" || tail -n "${LINES_SHOWN:-60}" "$folder/$job"
done
exit $failed
