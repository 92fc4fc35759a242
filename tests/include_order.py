#!/usr/bin/env python3
"""A room includes only itself and the rooms above it (README, "The map").

Usage: include_order.py ROOT    exit code 1 and a line for every include that points upward
"""
import pathlib
import re
import sys

ROOMS = ["base", "tensor", "pattern", "backend", "model", "formats", "tokenizer", "data", "train",
         "infer", "eval", "api", "cli"]
# Serving knows nothing of training, and evaluation nothing of it either (only the program joins them).
FORBIDDEN = {("infer", "train"), ("infer", "data"), ("eval", "train"), ("api", "train"), ("api", "data"),
             ("api", "eval")}
# What lies outside longgen/: only these rooms may use it.
OUTSIDE = {"bench": {"cli"}, "include": {"api"}}
OUTER = re.compile(r'^\s*#\s*include\s+"(bench|include|tests)/', re.MULTILINE)
INCLUDE = re.compile(r'^\s*#\s*include\s+"longgen/([a-z_]+)/', re.MULTILINE)


def violations(root: pathlib.Path):
    files = [p for p in (root / "longgen").rglob("*") if p.suffix in {".h", ".cpp", ".cu", ".cuh"}]
    if not files:
        yield f"no source files under {root / 'longgen'}"
    for path in sorted(files):
        room = path.relative_to(root / "longgen").parts[0]
        if room not in ROOMS:
            yield f"{path}: unknown room {room}"
            continue
        for used in OUTER.findall(path.read_text(encoding="utf-8")):
            if room not in OUTSIDE.get(used, ()):
                yield f"{path}: {room} must not include {used}/"
        for used in INCLUDE.findall(path.read_text(encoding="utf-8")):
            if used not in ROOMS:
                yield f"{path}: includes unknown room {used}"
            elif ROOMS.index(used) > ROOMS.index(room) or (room, used) in FORBIDDEN:
                yield f"{path}: {room} must not include {used}"


if __name__ == "__main__":
    found = list(violations(pathlib.Path(sys.argv[1])))
    print("\n".join(found) if found else "include order holds")
    sys.exit(1 if found else 0)
