#!/usr/bin/env bash
# Unpacks the books and benchmarks that the larger tests read, beside the build.
# Usage: unpack_test_data.sh FOLDER     sources: $LONGGEN_DATA_ARCHIVES or ../shared/data
set -euo pipefail
folder=$1
archives=${LONGGEN_DATA_ARCHIVES:-$(dirname "$0")/../../shared/data}
[ -e "$folder/.complete" ] && exit 0
[ -n "${LONGGEN_TEST_DATA:-}" ] && [ -d "$folder/books" ] && exit 0
if [ ! -f "$archives/books.tar.zst" ]; then
  echo "warning: no test data at $archives; TESTS THAT READ BOOKS AND BENCHMARKS ARE SKIPPED" >&2
  exit 1
fi
mkdir -p "$folder"
for archive in "$archives"/*.tar.zst; do tar -C "$folder" -I zstd -xf "$archive"; done
cp -r "$archives/tokenizers" "$folder/"
touch "$folder/.complete"
