"""Writes vectors/aggregation.json and vectors/aggregation_bad.json, from docs/spec/13-aggregation.md alone.

An implementation of that page that shares nothing with the program: slow, in exact fractions, with every rounding
written out. Run it from the root of the repository: python3 crates/aggregation/reference/vectors.py
"""

import json
import math
import random
import struct
from fractions import Fraction

# --- Section 1: arithmetic. A number is a float whose value is a binary32 (or binary64) number.


def f32(x):
    """Rounds an exact number to binary32, ties to even."""
    x = Fraction(x)
    if x == 0:
        return 0.0
    sign, x = (-1, -x) if x < 0 else (1, x)
    exponent = x.numerator.bit_length() - x.denominator.bit_length()
    if Fraction(2) ** exponent > x:
        exponent -= 1
    quantum = Fraction(2) ** max(exponent - 23, -149)
    whole = round(x / quantum)  # Python rounds a Fraction's ties to even
    return sign * float(whole * quantum)


def bits32(x):
    return struct.unpack("<I", struct.pack("<f", x))[0]


def from_bits32(bits):
    return struct.unpack("<f", struct.pack("<I", bits))[0]


def hex32(values):
    return "".join(f"{bits32(v):08x}" for v in values)


def hex64(x):
    return f"{struct.unpack('<Q', struct.pack('<d', x))[0]:016x}"


def bf16(x):
    """Of a binary32 number that is not negative: the nearest with 16 low bits of zero."""
    bits = bits32(x)
    low, high = bits & 0xFFFF, bits >> 16
    if low > 0x8000 or (low == 0x8000 and high & 1):
        high += 1
    return from_bits32(high << 16)


def bf16_bytes(x):
    return struct.pack("<H", bits32(x) >> 16)


def mul(a, b):
    """A product of binary32 with the sign of a zero."""
    product = f32(Fraction(a) * Fraction(b))
    return math.copysign(0.0, math.copysign(1, a) * math.copysign(1, b)) if product == 0 else product


def add(a, b):
    if a == 0 and b == 0:
        return a + b
    return f32(Fraction(a) + Fraction(b))


def tree(terms):
    lanes = [0.0] * 8
    for i, term in enumerate(terms):
        lanes[i % 8] += term
    l0, l1, l2, l3, l4, l5, l6, l7 = lanes
    return ((l0 + l4) + (l2 + l6)) + ((l1 + l5) + (l3 + l7))


def packed(width, numbers):
    whole = 0
    for i, number in enumerate(numbers):
        whole |= number << (i * width)
    return whole.to_bytes((len(numbers) * width + 7) // 8, "little")


# --- Section 2: chunks, as lists of places in the tensor.


def chunks(shape):
    if len(shape) == 1:
        return [list(range(i, min(i + 4096, shape[0]))) for i in range(0, shape[0], 4096)]
    rows, columns = shape
    return [
        [r * columns + c for r in range(top, min(top + 64, rows)) for c in range(left, min(left + 64, columns))]
        for top in range(0, rows, 64)
        for left in range(0, columns, 64)
    ]


# --- Sections 3 to 5: a section gives its bytes, and what is sent as a list of (place, value, code).

SCHEMES = {"top-k": 1, "dense8": 2, "dense4": 3}


def top_k(shape, k, values):
    kept = []
    for chunk in chunks(shape):
        count = -(-k * len(chunk) // 4096)
        order = sorted(range(len(chunk)), key=lambda i: (-abs(values[chunk[i]]), i))
        kept.append(sorted(order[:count]))
    of_chunk = [[values[chunk[i]] for i in indices] for chunk, indices in zip(chunks(shape), kept)]

    def mean(is_meant):
        lists = [[abs(v) for v in vs if is_meant(abs(v))] for vs in of_chunk]
        count = sum(map(len, lists))
        return tree([tree(ms) for ms in lists]) / count if count else None

    m = mean(lambda a: True)
    lows, highs = mean(lambda a: a <= m), mean(lambda a: a > m)
    if lows is not None and highs is not None and bf16(f32(lows)) < bf16(f32(highs)):
        low, high, threshold = bf16(f32(lows)), bf16(f32(highs)), m
    else:
        low, high, threshold = bf16(f32(m)), 0.0, math.inf
    out, sent, counts = bf16_bytes(low) + bf16_bytes(high), [], [0, 0]
    for chunk, indices in zip(chunks(shape), kept):
        codes = {i: (abs(values[chunk[i]]) > threshold) + 2 * (values[chunk[i]] < 0) for i in indices}
        if low == 0.0:
            highs_here = {i: code for i, code in codes.items() if code & 1}
            free = (i for i in range(len(chunk)) if i not in highs_here)
            zeros = {next(free): 0 for _ in range(len(codes) - len(highs_here))}
            codes = {**highs_here, **zeros}
        indices = sorted(codes)
        out += packed(12, indices) + packed(2, [codes[i] for i in indices])
        for i in indices:
            level = high if codes[i] & 1 else low
            counts[codes[i] & 1] += 1
            sent.append((chunk[i], -level if codes[i] & 2 else level, codes[i]))
    norm = math.sqrt(counts[0] * (low * low) + counts[1] * (high * high))
    return out, sent, norm


def dense(shape, bits, values):
    limit, size = (127, 4096) if bits == 8 else (7, 64)
    out, sent, squares = b"", [], []
    for chunk in chunks(shape):
        for start in range(0, len(chunk), size):
            places = chunk[start : start + size]
            scale = bf16(f32(Fraction(max(abs(values[p]) for p in places)) / limit))
            if scale < 2.0**-126:
                scale, codes = 0.0, [0] * len(places)
            else:
                quotients = [f32(Fraction(values[p]) / Fraction(scale)) for p in places]
                codes = [max(-limit, min(limit, round(Fraction(q)))) for q in quotients]
            out += bf16_bytes(scale) + packed(bits, [code % (1 << bits) for code in codes])
            squares.append(sum(code * code for code in codes) * (scale * scale))
            sent += [(p, code * scale, code) for p, code in zip(places, codes)]
    return out, sent, math.sqrt(tree(squares))


def section(layout, number, values):
    shape = layout["tensors"][number]
    if layout["scheme"] == "top-k":
        return top_k(shape, layout["k"], values)
    return dense(shape, int(layout["scheme"][-1]), values)


def header(layout):
    return b"hearth-contrib/1" + struct.pack(
        "<HHI", SCHEMES[layout["scheme"]], layout.get("k", 0), len(layout["tensors"])
    )


def contribution(layout, tensors):
    sections = [section(layout, number, values) for number, values in enumerate(tensors)]
    return header(layout) + b"".join(s[0] for s in sections), [s[1] for s in sections], [s[2] for s in sections]


def dense_values(shape, sent):
    values = [0.0] * math.prod(shape)
    for place, value, _ in sent:
        values[place] = value + 0.0
    return values


# --- The vectors.

RANDOM = random.Random(13)


def normal(count, scale=1.0):
    """Values as updates have them: most are small, a few are large."""
    return [f32(Fraction(RANDOM.gauss(0, scale) * 4 ** RANDOM.gauss(0, 0.5))) for _ in range(count)]


def layout(scheme, tensors, k=None):
    return {"scheme": scheme, **({"k": k} if k else {}), "tensors": tensors}


def text(data):
    return "0x" + data.hex()


def contribution_case(name, shape, tensors):
    data, sent, norms = contribution(shape, tensors)
    return {
        "name": name,
        **shape,
        "values": [hex32(values) for values in tensors],
        "bytes": text(data),
        "sent": [hex32(dense_values(s, values)) for s, values in zip(shape["tensors"], sent)],
        "norms": [hex64(norm) for norm in norms],
    }


def contribution_cases():
    tiny = from_bits32(1)
    ragged = [[65, 66], [5], [3, 2]]
    values = [normal(math.prod(shape)) for shape in ragged]
    narrow = [[66, 3], [67], [2, 2]]
    few = [normal(math.prod(shape)) for shape in narrow]
    cases = [
        contribution_case("ragged tiles, a vector and a small matrix", layout("top-k", ragged, 64), values),
        contribution_case("narrow tiles in 8 bits", layout("dense8", narrow), few),
        contribution_case("the same in 4 bits", layout("dense4", narrow), few),
        contribution_case("two chunks of a vector", layout("top-k", [[4100]], 256), [normal(4100, 1e-3)]),
        contribution_case("ties", layout("top-k", [[6]], 2048), [[1.0, -2.0, 2.0, 0.5, -1.0, 1.0]]),
        contribution_case("a magnitude at the mean is low", layout("top-k", [[6]], 4096), [[1.0, -3.0, 0.0, 8.0, -8.0, 4.0]]),
        contribution_case("one level", layout("top-k", [[4]], 4096), [[3.0, -3.0, 3.0, 3.0]]),
        contribution_case(
            "levels that round to one", layout("top-k", [[4]], 4096), [[1.0, 1.0, f32(1.0001), -1.0]]
        ),
        contribution_case("nothing but zeros", layout("top-k", [[8], [2]], 2048), [[0.0, -0.0] * 4, [0.0, 0.0]]),
        contribution_case("zeros beside a value", layout("top-k", [[6]], 2048), [[0.0, 0.0, -0.0, 5.0, -0.0, 0.0]]),
        contribution_case(
            "a low level too small for its values", layout("top-k", [[6]], 2048), [[0.0, 5.0, 0.0, 0.0, tiny, -tiny]]
        ),
        contribution_case("the largest level", layout("top-k", [[2]], 4096), [[2.0**40, -(2.0**40)]]),
        contribution_case("the largest scale", layout("dense8", [[2]]), [[2.0**40, -1.0]]),
        contribution_case("subnormal values in 8 bits", layout("dense8", [[3]]), [[tiny, -tiny, 2.0**-126]]),
        contribution_case("a tie between two steps", layout("dense8", [[4]]), [[127.0, 0.5, 1.5, -2.5]]),
        contribution_case("a group of zeros in 4 bits", layout("dense4", [[67]]), [[0.0] * 64 + [7.0, -1.0, 0.5]]),
    ]
    return cases


def feedback_case(name, shape, decay, updates):
    decay = f32(decay)
    residual = [0.0] * math.prod(shape["tensors"][0])
    rounds = []
    for update in updates:
        residual = [add(mul(decay, e), d) for e, d in zip(residual, update)]
        data, sent, _ = contribution(shape, [residual])
        for place, value, _ in sent[0]:
            residual[place] = add(residual[place], -value)
        rounds.append({"update": hex32(update), "bytes": text(data), "residual": hex32(residual)})
    return {"name": name, **shape, "decay": hex32([decay]), "rounds": rounds}


def round_case(name, shape, steps, members, rate, momentum=None):
    """`members` are (first byte of the id, steps, tensors) in the order of arrival."""
    data = [(bytes([first]) + bytes(31), own, *contribution(shape, tensors)) for first, own, tensors in members]
    weights = [normal(math.prod(s)) for s in shape["tensors"]]
    velocity = [normal(math.prod(s), 0.1) for s in shape["tensors"]]
    case = {
        "name": name,
        **shape,
        "steps": steps,
        "contributions": [{"trainer": text(t), "steps": own, "bytes": text(b)} for t, own, b, _, _ in data],
        "rate": hex32([rate]),
        "weights": [hex32(w) for w in weights],
    }
    if momentum is not None:
        momentum = f32(momentum)
        case |= {"momentum": hex32([momentum]), "velocity": [hex32(v) for v in velocity]}
    ordered = sorted(data, key=lambda member: member[0])
    medians = []
    for number, size in enumerate(map(math.prod, shape["tensors"])):
        median = sorted(member[4][number] for member in ordered)[(len(ordered) - 1) // 2]
        medians.append(median)
        g = [0.0] * size
        for _, own, _, sent, norms in ordered:
            clip = median / norms[number] if norms[number] > median else 1.0
            factor = f32((own / steps) * clip)
            for place, value, _ in sent[number]:
                g[place] = add(g[place], mul(factor, value))
        g = [f32(Fraction(x) / len(ordered)) for x in g]
        for place in range(size):
            step = g[place]
            if momentum is not None:
                velocity[number][place] = add(mul(momentum, velocity[number][place]), step)
                step = add(step, mul(momentum, velocity[number][place]))
            weights[number][place] = add(weights[number][place], -mul(rate, step))
    case |= {"medians": [hex64(m) for m in medians], "weightsAfter": [hex32(w) for w in weights]}
    if momentum is not None:
        case |= {"velocityAfter": [hex32(v) for v in velocity]}
    return case


def round_cases():
    def members(shape, scales):
        return [
            (first, own, [normal(math.prod(s), scale) for s in shape["tensors"]]) for first, own, scale in scales
        ]

    small = [[9, 70], [5]]
    sparse, eight, four = layout("top-k", small, 256), layout("dense8", small), layout("dense4", small)
    return [
        round_case("three, one of them loud", sparse, 30, members(sparse, [(7, 30, 1), (2, 30, 100), (5, 10, 1.1)]), 1.5),
        round_case("an even number", eight, 4, members(eight, [(1, 4, 1), (200, 3, 2), (9, 4, 3), (4, 1, 4)]), 1.0),
        round_case("with momentum", four, 7, members(four, [(3, 7, 1), (2, 5, 1)]), f32(0.7), 0.6),
        round_case("one alone", sparse, 1, members(sparse, [(0, 1, 1)]), 1.0),
        round_case(
            "one sends nothing", layout("dense8", [[3]]), 1, [(1, 1, [[0.0] * 3]), (2, 1, [[1.0, 2.0, 3.0]])], 1.0
        ),
    ]


def overlap_case(name, shape, a, b):
    (a_bytes, a_sent, _), (b_bytes, b_sent, _) = contribution(shape, a), contribution(shape, b)
    case = {"name": name, **shape, "a": text(a_bytes), "b": text(b_bytes), "sent": 0, "shared": 0, "equal": 0}
    expected = 0.0
    for number, tensor in enumerate(shape["tensors"]):
        is_sparse = shape["scheme"] == "top-k"
        places = [{p: c for p, _, c in sent[number] if is_sparse or c} for sent in (a_sent, b_sent)]
        for chunk in chunks(tensor):
            ours, theirs = ({p: own[p] for p in chunk if p in own} for own in places)
            shared = ours.keys() & theirs.keys()
            case["sent"] += len(ours)
            case["shared"] += len(shared)
            case["equal"] += sum(ours[p] == theirs[p] for p in shared)
            expected += len(ours) * len(theirs) / len(chunk)
    return case | {"expected": hex64(expected)}


def overlap_cases():
    shapes = [[66, 70], [5]]
    a, b = ([normal(math.prod(s)) for s in shapes] for _ in range(2))
    near = [[add(x, f32(Fraction(y) / 64)) for x, y in zip(s, t)] for s, t in zip(a, b)]
    return [
        overlap_case("independent", layout("top-k", shapes, 512), a, b),
        overlap_case("a copy with noise", layout("top-k", shapes, 512), a, near),
        overlap_case("a copy with noise in 4 bits", layout("dense4", shapes), a, near),
    ]


def bad_cases():
    top = layout("top-k", [[70], [5]], 128)
    good = bytearray(contribution(top, [[float(i - 35) or 0.5 for i in range(70)], [1.0, 2.0, 3.0, 4.0, 9.0]])[0])
    # Tensor 0: levels at 24, three indices at 28 (5 bytes), codes at 33; tensor 1: levels at 34, one index at 38, code at 40.
    assert len(good) == 41

    def changed(at, new, base=good):
        return bytes(base[:at]) + bytes(new) + bytes(base[at + len(new) :])

    cases = []

    def case(name, shape, data, error):
        cases.append({"name": name, **shape, "bytes": text(data), "error": error})

    case("empty", top, b"", "length")
    case("a byte short", top, good[:-1], "length")
    case("a byte long", top, bytes(good) + b"\0", "length")
    case("another version", top, changed(15, b"2"), "domain")
    case("another scheme", top, changed(16, b"\2"), "header")
    case("another k", top, changed(18, b"\x40"), "header")
    case("another number of tensors", top, changed(20, b"\3"), "header")
    case("a level of -0", top, changed(36, b"\0\x80"), "level")
    case("a negative level", top, changed(34, b"\x80\xbf"), "level")
    case("an infinite level", top, changed(24, b"\x80\x7f"), "level")
    case("a level that is not a number", top, changed(26, b"\xc0\x7f"), "level")
    case("a level above 2^40", top, changed(26, b"\x81\x53"), "level")

    two = layout("top-k", [[2]], 4096)

    def pair(low, high, indices, codes):
        return header(two) + bf16_bytes(low) + bf16_bytes(high) + packed(12, indices) + packed(2, codes)

    case("levels in the wrong order", two, pair(2.0, 1.0, [0, 1], [0, 1]), "level order")
    case("equal levels", two, pair(2.0, 2.0, [0, 1], [0, 1]), "level order")
    case("no value is high", two, pair(1.0, 2.0, [0, 1], [0, 2]), "level unused")
    case("no value is low", two, pair(1.0, 2.0, [0, 1], [1, 3]), "level unused")
    case("a high value without a level", two, pair(1.0, 0.0, [0, 1], [1, 0]), "level missing")
    case("indices that descend", two, pair(1.0, 2.0, [1, 0], [0, 1]), "index order")
    case("an index twice", two, pair(1.0, 2.0, [1, 1], [0, 1]), "index order")
    case("an index behind the end", two, pair(1.0, 2.0, [0, 2], [0, 1]), "index range")
    case("padding of codes", two, changed(31, b"\x14", pair(1.0, 2.0, [0, 1], [0, 1])), "padding")
    case("padding of indices", top, changed(32, bytes([good[32] | 0x10])), "padding")
    case("a zero with a sign", two, pair(0.0, 0.0, [0, 1], [0, 2]), "zero sign")
    zeros = layout("top-k", [[4]], 2048)
    misplaced = header(zeros) + bf16_bytes(0.0) + bf16_bytes(1.0)
    case("a zero that is not at its place", zeros, misplaced + packed(12, [1, 3]) + packed(2, [0, 1]), "zero place")
    case("a zero behind a value", zeros, misplaced + packed(12, [1, 2]) + packed(2, [1, 0]), "zero place")

    eight, four = layout("dense8", [[3]]), layout("dense4", [[3]])

    def group(shape, scale, codes):
        width = int(shape["scheme"][-1])
        return header(shape) + bf16_bytes(scale) + packed(width, [code % (1 << width) for code in codes])

    case("a code of -128", eight, group(eight, 1.0, [-128, 0, 127]), "code range")
    case("a code of -8", four, group(four, 1.0, [-8, 0, 7]), "code range")
    case("a loose scale", eight, group(eight, 1.0, [126, -126, 0]), "scale loose")
    case("a loose scale in 4 bits", four, group(four, 1.0, [0, 0, 0]), "scale loose")
    case("codes without a scale", eight, group(eight, 0.0, [0, 1, 0]), "zero scale")
    case("a scale of -0", eight, group(eight, -0.0, [0, 0, 0]), "level")
    case("a negative scale", eight, group(eight, -1.0, [127, 0, 0]), "level")
    case("a subnormal scale", eight, group(eight, 2.0**-127, [127, 0, 0]), "level")
    case("an infinite scale", four, group(four, math.inf, [7, 0, 0]), "level")
    case("a scale beyond its bound", eight, group(eight, 2.0**34, [127, 0, 0]), "level")
    case("padding in 4 bits", four, changed(27, b"\x10", group(four, 1.0, [7, 0, 0])), "padding")
    return cases


def write(path, about, **fields):
    with open(path, "w") as file:
        json.dump({"about": f"Made by crates/aggregation/reference/vectors.py. {about} See docs/spec/13-aggregation.md.", **fields}, file, indent=2)
        file.write("\n")


if __name__ == "__main__":
    shape = layout("top-k", [[70, 3]], 512)
    write(
        "vectors/aggregation.json",
        "What a compressor must write, a reader must read, and a round must make of it.",
        contributions=contribution_cases(),
        feedback=[
            feedback_case("top-k", shape, 0.95, [normal(210) for _ in range(4)]),
            feedback_case("8 bits", layout("dense8", [[10]]), 0.5, [normal(10) for _ in range(3)]),
            feedback_case("4 bits", layout("dense4", [[70]]), 1.0, [normal(70) for _ in range(3)]),
        ],
        rounds=round_cases(),
        overlaps=overlap_cases(),
    )
    write(
        "vectors/aggregation_bad.json",
        "What a reader must refuse, and why.",
        contributions=bad_cases(),
    )
