#!/usr/bin/env python3
"""Objects compiled for an instruction set define no symbol that the linker may take for others.

An inline function or a template (a weak symbol) that such an object holds could replace the baseline
copy of it everywhere, and the program would crash on an older processor (longgen/backend/cpu/simd.h).

Usage: isa_objects.py NM BUILD_FOLDER    exit code 1 and a line for every such symbol
"""
import pathlib
import re
import subprocess
import sys

ENDINGS = ["avx2", "avx512", "avx512bf16", "amx"]
WEAK_DEFINITION = re.compile(r"^(\S+) [VWiu] ", re.MULTILINE)


def violations(nm: str, build: pathlib.Path):
    for ending in ENDINGS:
        objects = sorted(build.rglob(f"*_{ending}.cpp.o"))
        if not objects:
            yield f"no objects *_{ending}.cpp.o under {build}"
        for path in objects:
            listing = subprocess.run([nm, "--format=posix", path], check=True, capture_output=True,
                                     text=True).stdout
            if not re.search(r" [RD] ", listing):
                yield f"{path}: defines no table of kernels; is this listing right?"
            for symbol in WEAK_DEFINITION.findall(listing):
                yield f"{path}: {symbol} is weak; put it in an unnamed namespace"


if __name__ == "__main__":
    found = list(violations(sys.argv[1], pathlib.Path(sys.argv[2])))
    print("\n".join(found) if found else "no weak symbols in objects of instruction sets")
    sys.exit(1 if found else 0)
