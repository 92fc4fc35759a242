#!/usr/bin/env bash
# Installs into a temporary prefix, then builds and runs another program against what was installed.
# usage: test.sh BUILD_DIR CXX [CXX_FLAGS]
set -euo pipefail
build=$(realpath "$1") cxx=$2 flags=${3:-}
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../../.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

cmake --install "$build" --prefix "$work/prefix" >"$work/install.log" || { cat "$work/install.log"; exit 1; }

# The installed tree is all that the other program may see.
for header in "$work"/prefix/include/longgen/*.h; do
  echo "#include <longgen/$(basename "$header")>" >"$work/alone.cpp"
  "$cxx" -std=c++20 -Wall -Wextra -Werror -fsyntax-only -isystem "$work/nothing" \
    -I "$work/prefix/include" "$work/alone.cpp"
done
if grep -RnE '#include [<"](fmt|spdlog|nlohmann|CLI|longgen/[a-z_]+/)' "$work/prefix/include"; then
  echo "public headers include what is internal" >&2
  exit 1
fi

cmake -S "$here" -B "$work/build" -DCMAKE_PREFIX_PATH="$work/prefix" -DCMAKE_CXX_COMPILER="$cxx" \
  -DCMAKE_CXX_FLAGS="$flags" -DCMAKE_BUILD_TYPE=Release >"$work/configure.log" ||
  { cat "$work/configure.log"; exit 1; }
cmake --build "$work/build" >"$work/build.log" || { cat "$work/build.log"; exit 1; }
"$work/build/uses_longgen" "$root/demo/model"

"$work/prefix/bin/longgen" --version | grep -q '^longgen [0-9]'
for file in bash-completion/completions/longgen zsh/site-functions/_longgen fish/vendor_completions.d/longgen.fish; do
  grep -q longgen "$work/prefix/share/$file"
done
# As packagers install.
DESTDIR=$work/staged cmake --install "$build" --prefix /usr >"$work/install.log"
test -x "$work/staged/usr/bin/longgen"
test -f "$work/staged/usr/share/bash-completion/completions/longgen"
