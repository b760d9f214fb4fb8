"""Writes vectors/datasets.json and vectors/datasets_bad.json from docs/spec/15-datasets.md alone.

It shares nothing with the program. It needs PyPI `blake3`:

    python3 crates/datasets/reference/vectors.py
"""

import hashlib
import json
import pathlib

from blake3 import blake3

VECTORS = pathlib.Path(__file__).resolve().parents[3] / "vectors"


def windows(dataset, tokens, window_tokens, beacon, run, trainer, round_, count):
    """Section 5."""
    there = (tokens - 1) // window_tokens
    assert count <= there
    material = beacon + run + trainer + round_.to_bytes(8, "little")
    material += dataset + tokens.to_bytes(8, "little") + window_tokens.to_bytes(4, "little")
    hasher = blake3(material, derive_key_context="hearth datasets windows 1")
    position = 0

    def below(bound):
        nonlocal position
        while True:
            number = int.from_bytes(hasher.digest(length=8, seek=8 * position), "little")
            position += 1
            if number >= 2**64 % bound:
                return number % bound

    places, drawn = {}, []
    for place in range(count):
        chosen = place + below(there - place)
        drawn.append(places.get(chosen, chosen))
        places[chosen] = places.get(place, place)
    return drawn


def manifest(**changes):
    """Section 4, of a small dataset that is not on any disk."""
    shards = {
        "training-00000": bytes(range(200)) * 10,
        "training-00001": b"\x01\x00" * 5,
        "held-out-00000": b"\x02\x00" * 7,
    }
    tokenizer = b"{}"

    def file(name, path, form, data):
        return {
            "@id": name,
            "@type": "cr:FileObject",
            "contentSize": f"{len(data)} B",
            "contentUrl": path,
            "encodingFormat": form,
            "hearth:blake3": blake3(data).hexdigest(),
            "name": name,
            "sha256": hashlib.sha256(data).hexdigest(),
        }

    files = [file("tokenizer", "tokenizer.json", "application/json", tokenizer)]
    for name, data in shards.items():
        path = f"shards/{blake3(data).hexdigest()}.tokens"
        files.append(file(name, path, "application/octet-stream", data))
    stated = {
        "@context": {
            "@language": "en",
            "@vocab": "https://schema.org/",
            "citeAs": "cr:citeAs",
            "conformsTo": "dct:conformsTo",
            "cr": "http://mlcommons.org/croissant/",
            "dct": "http://purl.org/dc/terms/",
            "hearth": "urn:hearth:dataset:1#",
            "sc": "https://schema.org/",
        },
        "@type": "sc:Dataset",
        "citeAs": "Someone: \"Lines\", 1599",
        "conformsTo": "http://mlcommons.org/croissant/1.1",
        "description": "A few lines, für Prüfungen",
        "distribution": files,
        "hearth:endOfText": 0,
        "hearth:heldOutDocuments": 1,
        "hearth:heldOutPerMille": 20,
        "hearth:heldOutTokens": 7,
        "hearth:shardTokens": 1000,
        "hearth:tokenBytes": 2,
        "hearth:tokenizer": blake3(tokenizer).hexdigest(),
        "hearth:trainingDocuments": 3,
        "hearth:trainingTokens": 1005,
        "hearth:vocabulary": 60000,
        "license": "CC0-1.0",
        "name": "lines",
        "url": "https://example.org/lines",
    }
    for name, value in changes.items():
        if value is None:
            del stated[name]
        else:
            stated[name] = value
    return stated


def canonical(value):
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def hexed(data):
    return "0x" + data.hex()


def draw_vectors():
    facts = {"beacon": bytes([1] * 32), "run": bytes([2] * 32), "trainer": bytes([3] * 32), "round_": 4}
    other = {"beacon": bytes(range(32)), "run": bytes([0xFF] * 32), "trainer": bytes(32), "round_": 2**64 - 1}
    dataset = blake3(b"dataset").digest()
    cases = [
        (1_300_001, 512, facts, 12),
        (101, 10, facts, 10),
        (2**53, 1, other, 5),
        (3 * 2**40, 1_048_576, other, 4),
        (2, 1, facts, 1),
        (2, 1, facts, 0),
    ]
    for tokens, window_tokens, seed, count in cases:
        yield {
            "dataset": hexed(dataset),
            "tokens": str(tokens),
            "windowTokens": str(window_tokens),
            "beacon": hexed(seed["beacon"]),
            "run": hexed(seed["run"]),
            "trainer": hexed(seed["trainer"]),
            "round": str(seed["round_"]),
            "count": str(count),
            "windows": [str(n) for n in windows(dataset, tokens, window_tokens, count=count, **seed)],
        }


def document_vectors():
    for text in ["", "hearth", "für Prüfungen", "a", "b", "c", "d", "e", "🔥\n"]:
        number = int.from_bytes(blake3(text.encode()).digest()[:8], "little") % 1000
        yield {"text": text, "heldOutFrom": str(number + 1)}


def shard_vectors():
    for vocabulary, tokens in [(300, [0, 299, 1]), (65_536, [65_535, 256]), (65_537, [65_536, 1]), (300, [])]:
        width = 2 if vocabulary <= 65_536 else 4
        data = b"".join(token.to_bytes(width, "little") for token in tokens)
        yield {
            "vocabulary": str(vocabulary),
            "tokens": [str(token) for token in tokens],
            "bytes": hexed(data),
            "blake3": hexed(blake3(data).digest()),
        }


def bad_manifests():
    whole = manifest()
    files = whole["distribution"]
    text = canonical(whole)

    def with_file(index, **changes):
        changed = [dict(file) for file in files]
        changed[index].update({name.replace("_", ":", 1) if name.startswith("hearth_") else name: value
                               for name, value in changes.items()})
        return manifest(distribution=changed)

    cases = [
        ("white space", "NotCanonical", text.replace(":", ": ", 1)),
        ("a field twice", "NotCanonical", text.replace('"name":"lines"', '"name":"lines","name":"lines"')),
        ("keys out of order", "NotCanonical", json.dumps({"url": whole["url"], **whole}, separators=(",", ":"), ensure_ascii=False)),
        ("escaped letters", "NotCanonical", json.dumps(whole, sort_keys=True, separators=(",", ":"))),
        ("a field of its own", "NotCanonical", manifest(extra=1)),
        ("another version", "NotCanonical", manifest(conformsTo="http://mlcommons.org/croissant/1.0")),
        ("another width", "NotCanonical", manifest(**{"hearth:tokenBytes": 4})),
        ("another tokenizer", "NotCanonical", manifest(**{"hearth:tokenizer": "00" * 32})),
        ("swapped parts", "NotCanonical", manifest(distribution=[files[0], files[3], files[1], files[2]])),
        ("a path out of the folder", "NotCanonical", with_file(1, contentUrl="../secret")),
        ("a shard without a part", "NotCanonical", manifest(distribution=files + [dict(files[1], **{"@id": "other"})])),
        ("no license", "Field", manifest(license=None)),
        ("a list as a name", "Field", manifest(name=["lines"])),
        ("no distribution", "Field", manifest(distribution=None)),
        ("an empty distribution", "Field", manifest(distribution=[])),
        ("a short hash", "Field", with_file(1, sha256="00")),
        ("a hash in capitals", "Field", with_file(1, sha256="AB" * 32)),
        ("a size without its unit", "Field", with_file(1, contentSize="2000")),
        ("a fraction", "Field", manifest(**{"hearth:vocabulary": 300.5})),
        ("a number past 2^53", "Field", manifest(**{"hearth:trainingTokens": 2**53 + 1})),
        ("an empty license", "Text", manifest(license="")),
        ("a license of two lines", "Text", manifest(license="CC0-1.0\nand more")),
        ("a name of 3,000 bytes", "Text", manifest(name="n" * 3000)),
        ("a source that is a file", "Source", manifest(url="file:///etc/passwd")),
        ("a vocabulary without bytes", "Range", manifest(**{"hearth:vocabulary": 256})),
        ("an end that is no token", "Range", manifest(**{"hearth:endOfText": 60000})),
        ("shards of nothing", "Range", manifest(**{"hearth:shardTokens": 0})),
        ("most of it held out", "Range", manifest(**{"hearth:heldOutPerMille": 501})),
        ("nothing to train on", "Range", manifest(**{"hearth:trainingTokens": 0})),
        ("more tokens than shards", "Shards", manifest(**{"hearth:trainingTokens": 2005})),
        ("a shard of another size", "Shards", with_file(2, contentSize="12 B")),
        ("more documents than tokens", "Shards", manifest(**{"hearth:heldOutDocuments": 8})),
        ("a list", "Field", "[]"),
        ("half of it", "Json", text[: len(text) // 2]),
        ("nothing", "Json", ""),
    ]
    for name, error, value in cases:
        yield {"name": name, "error": error, "manifest": value if isinstance(value, str) else canonical(value)}


def bad_draws():
    for tokens, window_tokens, count, error in [
        (100, 10, 10, "TooFew"),
        (1, 1, 1, "TooFew"),
        (0, 1, 1, "TooFew"),
        (100, 0, 1, "Size"),
        (100, 1_048_577, 1, "Size"),
        (2**53, 1, 1_048_577, "Count"),
    ]:
        yield {"tokens": str(tokens), "windowTokens": str(window_tokens), "count": str(count), "error": error}


def bad_shards():
    for vocabulary, data, error in [
        (300, "000000", "Broken"),
        (300, "2c01", "Token"),
        (65_537, "0000", "Broken"),
        (65_537, "01000100", "Token"),
    ]:
        yield {"vocabulary": str(vocabulary), "bytes": "0x" + data, "error": error}


def write(name, value):
    text = json.dumps(value, indent=2, ensure_ascii=False) + "\n"
    (VECTORS / name).write_text(text, encoding="utf-8")


write(
    "datasets.json",
    {
        "about": "Datasets: windows, held-out documents, shards and a manifest; see docs/spec/15-datasets.md, section 7.",
        "windows": list(draw_vectors()),
        "documents": list(document_vectors()),
        "shards": list(shard_vectors()),
        "manifests": [
            {"manifest": canonical(value), "id": hexed(blake3(canonical(value).encode()).digest())}
            for value in [manifest(), manifest(url=None, citeAs=None)]
        ],
    },
)
write(
    "datasets_bad.json",
    {
        "about": "What a reader of datasets must refuse; see docs/spec/15-datasets.md, section 7.",
        "manifests": list(bad_manifests()),
        "windows": list(bad_draws()),
        "shards": list(bad_shards()),
    },
)
