"""Writes vectors/run_manifests.json, run_manifests_bad.json and run_work.json from docs/spec/16-runs.md alone.

It shares nothing with the program. It needs PyPI `blake3`:

    python3 crates/workshop/reference/vectors.py
"""

import copy
import json
import math
import pathlib
import struct

from blake3 import blake3

VECTORS = pathlib.Path(__file__).resolve().parents[3] / "vectors"


def single(value):
    """The nearest number of single precision."""
    return struct.unpack("<f", struct.pack("<f", value))[0]


def fraction(value):
    """Section 1.1: the fewest digits that give the same number of single precision, without an exponent."""
    value = single(value)
    digits = next(n for n in range(1, 18) if single(float(f"{value:.{n - 1}e}")) == value)
    mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
    figures, point = mantissa.replace(".", ""), int(exponent) + 1
    if point <= 0:
        text = "0." + "0" * -point + figures
    else:
        figures = figures.ljust(point, "0")
        text = figures[:point] + "." + figures[point:]
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return text or "0"


def manifest():
    """Section 1, with a model of fresh weights, AdamW and top-k."""
    return {
        "format": "hearth-run/1",
        "numerics": "f32-fma/1",
        "name": "lines",
        "description": "Fünf Akte, for tests",
        "license": "Apache-2.0",
        "model": {
            "vocabulary": 512,
            "width": 64,
            "layers": 2,
            "queryHeads": 4,
            "keyValueHeads": 2,
            "head": 16,
            "hidden": 176,
            "context": 64,
            "ropeTheta": fraction(10000),
            "normEpsilon": fraction(1e-5),
            "tiedHead": True,
        },
        "start": {"seed": "18446744073709551615"},
        "adapter": None,
        "datasets": [
            {"id": blake3(b"lines").hexdigest(), "weight": 3},
            {"id": blake3(b"more lines").hexdigest(), "weight": 1},
        ],
        "inner": {
            "windowTokens": 64,
            "windows": 8,
            "optimizer": adamw(),
            "clipNorm": fraction(1),
        },
        "round": {
            "steps": 30,
            "stepsMin": 10,
            "quorum": 2,
            "trainersMax": 16,
            "graceS": 60,
            "attemptS": 30,
            "carry": True,
        },
        "compression": {"scheme": "top-k", "k": 64, "decay": fraction(0.95)},
        "outer": {"rate": fraction(0.7), "momentum": fraction(0.6)},
        "audit": {"perMille": 50, "newcomerRounds": 3},
        "evaluation": {"windows": 16},
        "shares": {"trainers": 800, "validators": 100, "funders": 100},
        "rounds": 100,
    }


def adamw(method=True):
    stated = {
        "rate": {
            "peak": fraction(3e-4),
            "warmupSteps": 20,
            "decayFromStep": 2400,
            "decaySteps": 600,
            "floor": fraction(0.1),
        },
        "beta1": fraction(0.9),
        "beta2": fraction(0.95),
        "epsilon": fraction(1e-8),
        "decay": fraction(0.1),
    }
    return {"method": "adamw", **stated} if method else stated


def muon():
    rate = {"peak": fraction(0.02), "warmupSteps": 0, "decayFromStep": 0, "decaySteps": 0, "floor": fraction(0)}
    return {
        "method": "muon",
        "rate": rate,
        "momentum": fraction(0.95),
        "decay": fraction(0.1),
        "rest": adamw(method=False),
    }


def changed(path, value):
    """The manifest with another value at `path`; without the field where the value is `...`."""
    stated = copy.deepcopy(manifest())
    *way, last = path.split(".")
    place = stated
    for name in way:
        place = place[int(name)] if isinstance(place, list) else place[name]
    if isinstance(place, list):
        last = int(last)
    if value is ...:
        del place[last]
    else:
        place[last] = value
    return stated


def canonical(value):
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def good():
    base = {"base": blake3(b"a model").hexdigest(), "form": "gguf"}
    adapter = {"rank": 8, "alpha": fraction(16), "targets": ["q_proj", "v_proj", "down_proj"]}
    tuned = manifest()
    tuned.update(start=base, adapter=adapter, description="", outer={"rate": fraction(1), "momentum": None})
    tuned.update(compression={"scheme": "dense8", "decay": fraction(1)})
    return [
        manifest(),
        tuned,
        changed("inner.optimizer", muon()),
        changed("compression", {"scheme": "dense4", "decay": fraction(0)}),
        changed("start", {"base": "ab" * 32, "form": "safetensors"}),
        changed("start", {"seed": "0"}),
        changed("license", "https://example.org/\"terms\""),
    ]


def bad():
    whole = canonical(manifest())
    one = manifest()["datasets"][0]
    cases = [
        ("white space", "NotCanonical", whole.replace(":", ": ", 1)),
        ("keys out of order", "NotCanonical", json.dumps(manifest(), separators=(",", ":"), ensure_ascii=False)),
        ("escaped letters", "NotCanonical", json.dumps(manifest(), sort_keys=True, separators=(",", ":"))),
        ("a seed with a zero in front", "NotCanonical", changed("start.seed", "007")),
        ("a hash in capitals", "NotCanonical", changed("datasets.0.id", "AB" * 32)),
        ("a field twice", "NotCanonical", whole.replace('"rounds":100', '"rounds":100,"rounds":100')),
        ("a line behind", "NotCanonical", whole + "\n"),
        ("another form", "Unknown", changed("format", "hearth-run/2")),
        ("another arithmetic", "Unknown", changed("numerics", "f32-fma/2")),
        ("no form", "NotAManifest", changed("format", ...)),
        ("a list", "NotAManifest", "[]"),
        ("a field of its own", "Field", changed("extra", 1)),
        ("a field of its own, below", "Field", changed("round.extra", 1)),
        ("no adapter, and no word about it", "NotCanonical", changed("adapter", ...)),
        ("no license", "Field", changed("license", ...)),
        ("a number as a name", "Field", changed("name", 1)),
        ("a fraction as a number", "Field", changed("outer.rate", 0.7)),
        ("a fraction with an exponent", "Field", changed("inner.optimizer.epsilon", "1e-8")),
        ("a fraction with a zero behind", "Field", changed("outer.rate", "0.70")),
        ("a fraction with more digits than it needs", "Field", changed("outer.rate", "0.699999988")),
        ("a fraction without an end", "Field", changed("outer.rate", "inf")),
        ("a fraction below zero", "Field", changed("outer.rate", "-0.7")),
        ("half a step", "Field", changed("round.steps", 30.5)),
        ("a number in a string", "Field", changed("round.steps", "30")),
        ("minus a round", "Field", changed("rounds", -1)),
        ("more rounds than 32 bits", "Field", changed("rounds", 2**32)),
        ("a seed past 64 bits", "Field", changed("start.seed", str(2**64))),
        ("a start of both kinds", "Field", changed("start", {"seed": "1", "base": "ab" * 32, "form": "gguf"})),
        ("a start of no kind", "Field", changed("start", {})),
        ("a base of another form", "Field", changed("start", {"base": "ab" * 32, "form": "onnx"})),
        ("another optimizer", "Field", changed("inner.optimizer.method", "sgd")),
        ("another compression", "Field", changed("compression.scheme", "dense16")),
        ("a dense form with a k", "Field", changed("compression.scheme", "dense8")),
        ("a short hash", "Field", changed("datasets.0.id", "ab")),
        ("an empty name", "Text", changed("name", "")),
        ("a name with a space behind", "Text", changed("name", "lines ")),
        ("a name that turns around", "Text", changed("name", "li\u202enes")),
        ("a long name", "Text", changed("name", "n" * 129)),
        ("a description of two lines", "Text", changed("description", "one\ntwo")),
        ("no layers", "Range", changed("model.layers", 0)),
        ("a vocabulary past 2^18", "Range", changed("model.vocabulary", 2**18 + 1)),
        ("an odd head", "Rule", changed("model.head", 15)),
        ("three heads that two share", "Rule", changed("model.keyValueHeads", 3)),
        ("a base of positions of 1", "FractionRange", changed("model.ropeTheta", "1")),
        ("no epsilon", "FractionRange", changed("model.normEpsilon", "0")),
        ("a huge model", "Rule", changed("model", {**manifest()["model"], "width": 2**14, "hidden": 2**16, "layers": 256})),
        ("an adapter without rank", "Range", changed("adapter", {"rank": 0, "alpha": "1", "targets": ["q_proj"]})),
        ("an adapter of nothing", "Rule", changed("adapter", {"rank": 1, "alpha": "1", "targets": []})),
        ("targets out of order", "Rule", changed("adapter", {"rank": 1, "alpha": "1", "targets": ["v_proj", "q_proj"]})),
        ("a target twice", "Rule", changed("adapter", {"rank": 1, "alpha": "1", "targets": ["q_proj", "q_proj"]})),
        ("a target that is none", "Field", changed("adapter", {"rank": 1, "alpha": "1", "targets": ["lm_head"]})),
        ("no datasets", "Range", changed("datasets", [])),
        ("17 datasets", "Range", changed("datasets", [{"id": f"{n:064x}", "weight": 1} for n in range(17)])),
        ("a dataset twice", "Rule", changed("datasets", [one, {**one, "weight": 1}])),
        ("a dataset that weighs nothing", "Range", changed("datasets.0.weight", 0)),
        ("a window past the context", "Range", changed("inner.windowTokens", 65)),
        ("a norm of zero", "FractionRange", changed("inner.clipNorm", "0")),
        ("a mean that stays", "FractionRange", changed("inner.optimizer.beta1", "1")),
        ("a rate of 11", "FractionRange", changed("inner.optimizer.rate.peak", "11")),
        ("a warm-up past 2^53", "Range", changed("inner.optimizer.rate.warmupSteps", 2**53 + 1)),
        ("fewer steps than the fewest", "Range", changed("round.stepsMin", 31)),
        ("a quorum that is never there", "Range", changed("round.quorum", 17)),
        ("a quorum of nobody", "Range", changed("round.quorum", 0)),
        ("257 trainers", "Range", changed("round.trainersMax", 257)),
        ("no time for a proposer", "Range", changed("round.attemptS", 0)),
        ("a grace of more than a day", "Range", changed("round.graceS", 86401)),
        ("more than can be read in a round", "Range", changed("inner.windows", 65536)),
        ("nothing kept", "Range", changed("compression.k", 0)),
        ("a decay above 1", "FractionRange", changed("compression.decay", "1.5")),
        ("no outer rate", "FractionRange", changed("outer.rate", "0")),
        ("a momentum of 1", "FractionRange", changed("outer.momentum", "1")),
        ("hardly an audit", "Range", changed("audit.perMille", 9)),
        ("nothing measured", "Range", changed("evaluation.windows", 0)),
        ("shares of 999", "Rule", changed("shares.funders", 99)),
        ("no rounds", "Range", changed("rounds", 0)),
        ("half of it", "Json", whole[: len(whole) // 2]),
        ("nothing", "Json", ""),
    ]
    for name, error, value in cases:
        text = value if isinstance(value, str) else canonical(value)
        yield {"name": name, "error": error, "manifest": text}


def fractions():
    bits = [0, 1, 0x00800000, 0x3F800000, 0x3F733333, 0x322BCC77, 0x461C4000, 0x4E6E6B28, 0x0DA24260, 0x3EAAAAAB, 0x41200000]
    for number in bits:
        value = struct.unpack("<f", struct.pack("<I", number))[0]
        yield {"bits": f"{number:08x}", "text": fraction(value)}


def turns(weights):
    """Section 2.2."""
    due, order = [0] * len(weights), []
    for _ in range(sum(weights)):
        due = [one + weight for one, weight in zip(due, weights)]
        turn = due.index(max(due))
        due[turn] -= sum(weights)
        order.append(turn)
    return order


def rate_at(rate, step):
    """Section 7.4 of the page on training numerics."""
    peak, floor = single(float(rate["peak"])), single(float(rate["floor"]))
    if step < rate["warmupSteps"]:
        return peak * step / rate["warmupSteps"]
    if rate["decaySteps"] == 0 or step <= rate["decayFromStep"]:
        return peak
    gone = min(step - rate["decayFromStep"], rate["decaySteps"])
    return peak * (floor + (1.0 - floor) * (1.0 - gone / rate["decaySteps"]))


def bits(value):
    return struct.pack(">f", value).hex()


def rates():
    """Section 2.3."""
    rate = adamw()["rate"]
    for stated, round_, steps, own in [
        (rate, 0, 30, 0),
        (rate, 1, 30, 30),
        (rate, 79, 30, 100),
        (rate, 80, 30, 2400),
        (rate, 85, 30, 7),
        (rate, 99, 30, 2970),
        (rate, 200, 30, 0),
        ({**rate, "warmupSteps": 70, "decaySteps": 0}, 1, 30, 11),
        ({**rate, "floor": "0"}, 100, 30, 3),
        ({**rate, "floor": "0"}, 99, 30, 3),
    ]:
        schedule = {name: stated[name] for name in ["warmupSteps", "decayFromStep", "decaySteps"]}
        schedule.update(peak=bits(float(stated["peak"])), floor=bits(float(stated["floor"])))
        if round_ > 0:
            first, last = rate_at(stated, round_ * steps), rate_at(stated, round_ * steps + steps)
            schedule = {"warmupSteps": 0, "decayFromStep": 0, "decaySteps": 0, "peak": bits(last), "floor": bits(0.0)}
            if last < first:
                schedule.update(decayFromStep=own, decaySteps=steps, peak=bits(first), floor=bits(last / first))
        yield {"rate": stated, "round": round_, "steps": steps, "ownSteps": own, "schedule": schedule}


def tensors(stated):
    """Names, shapes and bounds of what is trained: sections 8 and 9 of the page on training numerics."""
    model = stated["model"]
    width, hidden, head = model["width"], model["hidden"], model["head"]
    queries, keys = model["queryHeads"] * head, model["keyValueHeads"] * head
    even = single(single(0.02) * single(math.sqrt(3)))
    residual = single(even / single(math.sqrt(2 * model["layers"])))
    matrices = {
        "self_attn.q_proj": (queries, width),
        "self_attn.k_proj": (keys, width),
        "self_attn.v_proj": (keys, width),
        "self_attn.o_proj": (width, queries),
        "mlp.gate_proj": (hidden, width),
        "mlp.up_proj": (hidden, width),
        "mlp.down_proj": (width, hidden),
    }
    adapter = stated["adapter"]
    if adapter is not None:
        for layer in range(model["layers"]):
            for name, (rows, columns) in matrices.items():
                if name.split(".")[1] in adapter["targets"]:
                    base = f"base_model.model.model.layers.{layer}.{name}.lora_"
                    yield base + "A.weight", [adapter["rank"], columns], single(1 / single(math.sqrt(columns)))
                    yield base + "B.weight", [rows, adapter["rank"]], 0.0
        return
    yield "model.embed_tokens.weight", [model["vocabulary"], width], even
    for layer in range(model["layers"]):
        for name, shape in matrices.items():
            if name == "self_attn.q_proj":
                yield f"model.layers.{layer}.input_layernorm.weight", [width], None
            if name == "mlp.gate_proj":
                yield f"model.layers.{layer}.post_attention_layernorm.weight", [width], None
            bound = residual if name.endswith(("o_proj", "down_proj")) else even
            yield f"model.layers.{layer}.{name}.weight", list(shape), bound
    yield "model.norm.weight", [width], None
    if not model["tiedHead"]:
        yield "lm_head.weight", [model["vocabulary"], width], even


def philox(counter, key):
    """Philox4x32-10 (Salmon and others, 2011)."""
    c, k = list(counter), list(key)
    for _ in range(10):
        high0, low0 = divmod(0xD2511F53 * c[0], 2**32)
        high1, low1 = divmod(0xCD9E8D57 * c[2], 2**32)
        c = [high1 ^ c[1] ^ k[0], low1, high0 ^ c[3] ^ k[1], low0]
        k = [(k[0] + 0x9E3779B9) % 2**32, (k[1] + 0xBB67AE85) % 2**32]
    return c


def fresh(stated):
    """Section 8 of the page on training numerics: what is trained, as bytes."""
    seed = int(stated["start"].get("seed", "0"))
    out = []
    for number, (_, shape, bound) in enumerate(tensors(stated)):
        for element in range(math.prod(shape)):
            if bound is None:
                out.append(1.0)
                continue
            counter = [element // 4 % 2**32, element // 4 // 2**32, number, 0]
            word = philox(counter, [seed % 2**32, seed // 2**32])[element % 4]
            out.append(single(((word >> 8) - 2**23) / 2**23 * bound) if bound else 0.0)
    return struct.pack(f"<{len(out)}f", *out)


def checkpoint(stated, next_round, numbers):
    """Section 2.5: the header, and the file."""
    name = blake3(canonical(stated).encode()).hexdigest()
    metadata = {"format": "pt", "hearth": "hearth-state/1", "manifest": name, "nextRound": str(next_round)}
    header, end = {"__metadata__": metadata}, 0
    for prefix in [""] + (["velocity."] if stated["outer"]["momentum"] is not None else []):
        for tensor, shape, _ in tensors(stated):
            begin, end = end, end + 4 * math.prod(shape)
            header[prefix + tensor] = {"dtype": "F32", "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":"))
    text += " " * (-len(text) % 8)
    assert len(numbers) == end
    return text, len(text).to_bytes(8, "little") + text.encode() + numbers


def tiny(**changes):
    """A run whose model has few numbers."""
    stated = manifest()
    model = {**stated["model"], "vocabulary": 5, "width": 3, "layers": 2, "queryHeads": 2, "keyValueHeads": 1, "head": 2, "hidden": 3}
    stated.update(model=model, start={"seed": "4294967298"}, **changes)
    return stated


def first_states():
    plain = {"rate": fraction(1), "momentum": None}
    untied = tiny(outer=plain)
    untied["model"]["tiedHead"] = False
    tuned = tiny(adapter={"rank": 2, "alpha": fraction(4), "targets": ["k_proj", "o_proj", "up_proj"]})
    tuned["start"] = {"base": blake3(b"a model").hexdigest(), "form": "gguf"}
    for stated in [tiny(), untied, tuned]:
        numbers = fresh(stated)
        if stated["outer"]["momentum"] is not None:
            numbers += bytes(len(numbers))
        header, data = checkpoint(stated, 0, numbers)
        yield {"manifest": canonical(stated), "header": header, "hash": "0x" + blake3(data).hexdigest()}


def local_states():
    """Section 3."""
    stated = tiny()
    name = blake3(canonical(stated).encode()).digest()
    values = sum(math.prod(shape) for _, shape, _ in tensors(stated))

    def state(domain=b"hearth-local/1\0\0", run=name, round_=3, steps=100, first=0.25, second=0.5, left=-0.125):
        head = domain + run + bytes([9] * 32) + round_.to_bytes(8, "little") + steps.to_bytes(8, "little")
        return head + b"".join(struct.pack("<f", value) * values for value in [first, second, left])

    good = [state(), state(steps=120, left=2.0**40), state(round_=99, steps=1, second=0.0)]
    for data in good:
        yield {"manifest": canonical(stated), "bytes": "0x" + data.hex()}
    for error, data in [
        ("Header", state(domain=b"hearth-local/2\0\0")),
        ("Header", state(run=bytes(32))),
        ("Steps", state(round_=100)),
        ("Steps", state(steps=0)),
        ("Steps", state(steps=121)),
        ("Numbers", state(first=math.inf)),
        ("Numbers", state(second=-1.0)),
        ("Numbers", state(left=math.nan)),
        ("Numbers", state(left=2.0**41)),
        ("Short", state()[:-1]),
        ("Long", state() + b"\0"),
    ]:
        yield {"manifest": canonical(stated), "bytes": "0x" + data.hex(), "error": error}


def write(name, value):
    text = json.dumps(value, indent=2, ensure_ascii=False) + "\n"
    (VECTORS / name).write_text(text, encoding="utf-8")


write(
    "run_manifests.json",
    {
        "about": "Manifests of runs: bytes, names, fractions; see docs/spec/16-runs.md, section 1.",
        "manifests": [
            {"manifest": canonical(value), "hash": "0x" + blake3(canonical(value).encode()).hexdigest()}
            for value in good()
        ],
        "fractions": list(fractions()),
    },
)
write(
    "run_manifests_bad.json",
    {
        "about": "What a reader of runs' manifests must refuse; see docs/spec/16-runs.md, section 1.",
        "manifests": list(bad()),
    },
)
write(
    "run_work.json",
    {
        "about": "What a device computes in a round of a run; see docs/spec/16-runs.md, sections 2 and 3.",
        "turns": [{"weights": weights, "turns": turns(weights)} for weights in [[1], [3, 1], [1, 1, 1], [5, 2, 1], [2, 2, 3]]],
        "rates": list(rates()),
        "firstStates": list(first_states()),
        "localStates": list(local_states()),
    },
)
