"""Writes vectors/outcome.json and vectors/outcome_bad.json from docs/spec/17-outcome.md alone.

It shares nothing with the program. It needs PyPI `blake3`:

    python3 crates/outcome/reference/vectors.py
"""

import hashlib
import json
import pathlib
import struct
from fractions import Fraction

from blake3 import blake3

VECTORS = pathlib.Path(__file__).resolve().parents[3] / "vectors"


def single(value):
    """The shortest decimal number that gives the same number of single precision, without an exponent."""
    bits = struct.pack("<f", value)
    exact = Fraction(struct.unpack("<f", bits)[0])
    for digits in range(1, 120):
        text = shortened(exact, digits)
        if struct.pack("<f", float(text)) == bits:
            return text
    raise ValueError(value)


def shortened(exact, digits):
    """A positive number rounded to so many digits that count."""
    exponent = 0
    while exact >= Fraction(10) ** (exponent + 1):
        exponent += 1
    while exact < Fraction(10) ** exponent:
        exponent -= 1
    unit = Fraction(10) ** (exponent - digits + 1)
    count = round(exact / unit)
    if unit >= 1:
        return str(count * int(unit))
    places = digits - 1 - exponent
    whole, rest = divmod(count, 10**places)
    fraction = str(rest).rjust(places, "0").rstrip("0")
    return f"{whole}.{fraction}" if fraction else str(whole)


def file(path, data):
    return {
        "blake3": blake3(data).hexdigest(),
        "bytes": len(data),
        "path": path,
        "sha256": hashlib.sha256(data).hexdigest(),
    }


def hashed(text):
    return blake3(text.encode()).hexdigest()


def account(byte):
    return "0x" + f"{byte:02x}" * 20


def architecture(**changes):
    stated = {
        "context": 256,
        "head": 16,
        "hidden": 96,
        "keyValueHeads": 2,
        "layers": 2,
        "normEpsilon": single(1e-5),
        "queryHeads": 4,
        "ropeTheta": single(10000.0),
        "tiedHead": True,
        "vocabulary": 300,
        "width": 64,
    }
    stated.update(changes)
    return stated


def apportion(whole, parts):
    """Section 5, rule 6."""
    total = sum(parts)
    if total == 0:
        return [0] * len(parts)
    shares = [part * whole // total for part in parts]
    remainders = sorted(range(len(parts)), key=lambda i: (-(parts[i] * whole % total), i))
    for index in remainders[: whole - sum(shares)]:
        shares[index] += 1
    return shares


def trainers(**changes):
    steps = [4096 * 512, 0, 1024 * 512]
    shares = apportion(900_000, steps)
    rows = [
        {"account": account(byte), "share": share, "tokenSteps": count}
        for byte, share, count in zip([0x01, 0x2A, 0xFF], shares, steps)
    ]
    rows[0].update(changes)
    return rows


def manifest(**changes):
    """A model that is not on any disk."""
    stated = {
        "architecture": architecture(),
        "base": {"hash": hashed("base"), "name": "An older model"},
        "datasets": sorted([hashed("lines"), hashed("more lines")]),
        "description": "Tells stories, für Prüfungen: \"once upon a time\"",
        "evaluations": [
            {"items": 500, "measure": "loss", "suite": hashed("lines"), "value": "3.25"},
            {
                "items": 40,
                "measure": "accuracy",
                "report": hashed("report"),
                "suite": hashed("suite"),
                "value": "0.425",
            },
        ],
        "files": [file("config.json", b"{}"), file("model.gguf", bytes(range(256)) * 8)],
        "format": "hearth-model/1",
        "funders": [{"account": account(0x10), "share": 20_000}],
        "license": "CC0-1.0",
        "name": "Stories",
        "run": {
            "firstRound": 0,
            "id": hashed("run"),
            "lastRound": 41,
            "manifest": hashed("manifest of the run"),
            "state": hashed("state"),
        },
        "trainers": trainers(),
        "validators": [
            {"account": account(0x2A), "share": 50_000},
            {"account": account(0x77), "share": 30_000},
        ],
    }
    for name, value in changes.items():
        if value is None:
            del stated[name]
        else:
            stated[name] = value
    return stated


def adapter(**changes):
    stated = {"alpha": single(16.0), "rank": 8, "targets": ["q_proj", "v_proj", "down_proj"]}
    stated.update(changes)
    return stated


NOBODY = {"trainers": [], "validators": [], "funders": []}


def canonical(value):
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def good_manifests():
    odd = architecture(
        normEpsilon=single(1.0000001e-6), ropeTheta=single(500000.03), tiedHead=False, head=14, layers=3
    )
    yield manifest()
    yield manifest(adapter=adapter(), evaluations=[])
    yield manifest(adapter=adapter(alpha=single(0.1)), architecture=odd)
    yield manifest(base=None, run=None, description=None, datasets=[], evaluations=[], **NOBODY)


def bad_manifests():
    whole = manifest()
    text = canonical(whole)
    files = whole["files"]

    def with_file(**changes):
        return manifest(files=[files[0], dict(files[1], **changes)])

    def with_run(**changes):
        return manifest(run=dict(whole["run"], **changes))

    def with_evaluation(**changes):
        return manifest(evaluations=[dict(whole["evaluations"][0], **changes)])

    swapped = json.dumps({"name": whole["name"], **whole}, separators=(",", ":"), ensure_ascii=False)
    cases = [
        ("white space", "NotCanonical", text.replace(":", ": ", 1)),
        ("a line feed at the end", "NotCanonical", text + "\n"),
        ("a field twice", "NotCanonical", text.replace('"name":"Stories"', '"name":"Stories","name":"Stories"')),
        ("keys out of order", "NotCanonical", swapped),
        ("escaped letters", "NotCanonical", json.dumps(whole, sort_keys=True, separators=(",", ":"))),
        ("a field of its own", "NotCanonical", manifest(extra=1)),
        ("a field of its own inside", "NotCanonical", manifest(architecture=architecture(extra=1))),
        ("another format", "NotCanonical", manifest(format="hearth-model/2")),
        ("no format", "NotCanonical", manifest(format=None)),
        ("a fraction in another form", "NotCanonical", manifest(architecture=architecture(normEpsilon="1e-5"))),
        ("a longer fraction", "NotCanonical", manifest(architecture=architecture(ropeTheta="10000.0"))),
        ("a number with a fraction", "Field", text.replace('"layers":2', '"layers":2.0')),
        ("no license", "Field", manifest(license=None)),
        ("a list as a name", "Field", manifest(name=["Stories"])),
        ("no list of trainers", "Field", manifest(trainers=None)),
        ("nothing as a base", "Field", text.replace(canonical(whole["base"]), "null")),
        ("a hash in capitals", "Field", with_file(blake3="AB" * 32)),
        ("a short hash", "Field", with_run(state="00")),
        ("a path out of the folder", "Field", with_file(path="sub/model.gguf")),
        ("a path out of the folder, backwards", "Field", with_file(path="sub\\model.gguf")),
        ("a hidden file", "Field", manifest(files=[file("..", b"x")])),
        ("an account without 0x", "Field", manifest(trainers=trainers(account="01" * 20))),
        ("an account of 21 bytes", "Field", manifest(trainers=trainers(account="0x" + "01" * 21))),
        ("an account with its checksum", "Field", manifest(trainers=trainers(account="0xABaBaBaBABabABabAbAbABAbABabababaBaBABaB"))),
        ("a share below zero", "Field", manifest(trainers=trainers(share=-1))),
        ("a round past 2^53", "Field", with_run(lastRound=2**53 + 1)),
        ("a value with an exponent", "Field", with_evaluation(value="1e3")),
        ("a value with zeros", "Field", with_evaluation(value="3.250")),
        ("a value of nothing", "Field", with_evaluation(value="-0")),
        ("a value that is a number", "Field", with_evaluation(value=3)),
        ("an unknown target", "Field", manifest(adapter=adapter(targets=["lm_head"]))),
        ("an empty name", "Text", manifest(name="")),
        ("a license of two lines", "Text", manifest(license="CC0-1.0\nand more")),
        ("an empty description", "Text", manifest(description="")),
        ("a name of 3,000 bytes", "Text", manifest(name="n" * 3000)),
        ("no layers", "Architecture", manifest(architecture=architecture(layers=0))),
        ("heads that do not share", "Architecture", manifest(architecture=architecture(keyValueHeads=3))),
        ("an endless base of positions", "Architecture", manifest(architecture=architecture(ropeTheta="inf"))),
        ("an adapter of rank 0", "Adapter", manifest(adapter=adapter(rank=0))),
        ("targets out of order", "List", manifest(adapter=adapter(targets=["v_proj", "q_proj"]))),
        ("no file", "List", manifest(files=[])),
        ("a file twice", "List", manifest(files=[files[0], files[0]])),
        ("files out of order", "List", manifest(files=[files[1], files[0]])),
        ("datasets out of order", "List", manifest(datasets=whole["datasets"][::-1])),
        ("trainers out of order", "List", manifest(trainers=trainers()[::-1])),
        ("an empty file", "Range", with_file(bytes=0)),
        ("a last round before the first", "Range", with_run(firstRound=42)),
        ("shares of too much", "Shares", manifest(funders=[{"account": account(1), "share": 20_001}])),
        ("shares of too little", "Shares", manifest(funders=[])),
        ("a list", "Field", "[]"),
        ("half of it", "Json", text[: len(text) // 2]),
        ("nothing", "Json", ""),
    ]
    for name, error, value in cases:
        yield {"name": name, "error": error, "manifest": value if isinstance(value, str) else canonical(value)}


def share_vectors():
    for whole, parts in [
        (1_000_000, [1, 1, 1]),
        (900_000, [4096 * 512, 0, 1024 * 512]),
        (10, [5, 3, 3]),
        (7, [0, 0]),
        (1_000_000, [2**53, 2**53 - 1, 1]),
        (3, [1] * 7),
        (0, [1, 2]),
    ]:
        shares = apportion(whole, parts)
        yield {"whole": str(whole), "parts": [str(part) for part in parts], "shares": [str(share) for share in shares]}


def write(name, value):
    text = json.dumps(value, indent=2, ensure_ascii=False) + "\n"
    (VECTORS / name).write_text(text, encoding="utf-8")


write(
    "outcome.json",
    {
        "about": "Models: manifests and shares; see docs/spec/17-outcome.md, section 7.",
        "manifests": [
            {"manifest": canonical(value), "id": "0x" + blake3(canonical(value).encode()).hexdigest()}
            for value in good_manifests()
        ],
        "shares": list(share_vectors()),
    },
)
write(
    "outcome_bad.json",
    {
        "about": "What a reader of models' manifests must refuse; see docs/spec/17-outcome.md, section 7.",
        "manifests": list(bad_manifests()),
    },
)
