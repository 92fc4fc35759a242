"""Builders of files."""

import json
import struct

NEXT = "\n=====\n"


def to_bytes(value):
    if isinstance(value, bytes):
        return value
    return value.encode() if isinstance(value, str) else json.dumps(value).encode()


def safetensors(header, data=b""):
    text = to_bytes(header)
    return struct.pack("<Q", len(text)) + text + data


def tensor(dtype, shape, begin, end):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}
