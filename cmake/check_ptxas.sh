#!/bin/sh
# Runs a compiler command. Fails where ptxas says that it gave up on wgmma or setmaxnreg (C7508 to
# C7519): such a kernel is right, but runs at a fraction of its speed.
said=$("$@" 2>&1)
status=$?
[ -n "$said" ] && printf '%s\n' "$said" >&2
if printf '%s' "$said" | grep -Eq 'C75(0[89]|1[0-9])'; then
  echo "error: ptxas serialised wgmma or ignored setmaxnreg (see above)" >&2
  for word in "$@"; do
    [ "$previous" = -o ] && rm -f "$word"
    previous=$word
  done
  exit 1
fi
exit $status
