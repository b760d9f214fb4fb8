"""Writes vectors/outcome_blocks.json: blocks of ggml's formats, decoded by llama.cpp's own Python package.

It needs PyPI `gguf`:

    python3 crates/outcome/reference/blocks.py
"""

import json
import pathlib
import random
import struct

import numpy
from gguf import GGMLQuantizationType, quants

VECTORS = pathlib.Path(__file__).resolve().parents[3] / "vectors"

# The bytes of a block, and where its numbers of half precision stand.
FORMATS = {
    "F16": (2, [0]),
    "BF16": (2, []),
    "Q4_0": (18, [0]),
    "Q4_1": (20, [0, 2]),
    "Q5_0": (22, [0]),
    "Q5_1": (24, [0, 2]),
    "Q8_0": (34, [0]),
    "Q4_K": (144, [0, 2]),
    "Q5_K": (176, [0, 2]),
    "Q6_K": (210, [208]),
}


def block(generator, name):
    size, halves = FORMATS[name]
    data = bytearray(generator.randbytes(size))
    for place in halves:
        data[place : place + 2] = struct.pack("<e", generator.uniform(-0.1, 0.1))
    if name == "BF16":
        data = bytearray(struct.pack("<f", generator.uniform(-3, 3))[2:])
    return bytes(data)


def cases():
    generator = random.Random(17)
    for name in FORMATS:
        for _ in range(2):
            data = block(generator, name)
            numbers = quants.dequantize(numpy.frombuffer(data, dtype=numpy.uint8), GGMLQuantizationType[name])
            bits = numpy.ascontiguousarray(numbers, dtype="<f4").view("<u4")
            yield {
                "format": name,
                "bytes": "0x" + data.hex(),
                "numbers": " ".join(f"{number:08x}" for number in bits.ravel()),
            }


text = json.dumps(
    {
        "about": "Blocks of numbers, and the bits of those in single precision; see docs/spec/17-outcome.md, section 7.",
        "blocks": list(cases()),
    },
    indent=2,
)
(VECTORS / "outcome_blocks.json").write_text(text + "\n", encoding="utf-8")
