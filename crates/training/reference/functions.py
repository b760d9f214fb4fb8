"""Makes vectors/training_functions.json: the functions of docs/spec/12-training-numerics.md, from its words alone.

Every rounding is done here with whole numbers and fractions, so that no library decides it: an implementation beside the
one in Rust. Numbers are written as the hexadecimal bits of single precision.
Run: python3 functions.py > ../../../vectors/training_functions.json
"""
import json
import math
import struct
from fractions import Fraction

NAN, INF = float("nan"), float("inf")


def bits(x):
    return struct.unpack("<I", struct.pack("<f", x))[0]


def number(word):
    return struct.unpack("<f", struct.pack("<I", word & 0xFFFFFFFF))[0]


def rounded(value, negative_zero=False):
    """The nearest single-precision number of a fraction, ties to even, subnormal numbers kept."""
    if value == 0:
        return -0.0 if negative_zero else 0.0
    sign, size = (-1 if value < 0 else 1), abs(value)
    exponent = size.numerator.bit_length() - size.denominator.bit_length()
    if Fraction(2) ** exponent > size:
        exponent -= 1
    step = Fraction(2) ** (max(exponent, -126) - 23)
    whole, rest = divmod(size, step)
    if rest * 2 > step or (rest * 2 == step and whole % 2 == 1):
        whole += 1
    size = whole * step
    if size >= Fraction(2) ** 128:
        return sign * INF
    return math.copysign(float(size), sign)


def exact(x):
    return math.isfinite(x)


def fma(a, b, c):
    if not (exact(a) and exact(b) and exact(c)):
        return a * b + c
    value = Fraction(a) * Fraction(b) + Fraction(c)
    product_negative = (math.copysign(1, a) * math.copysign(1, b)) < 0
    both_negative = product_negative and math.copysign(1, c) < 0
    return rounded(value, negative_zero=both_negative and a * b == 0)


def add(a, b):
    return fma(a, 1.0, b) if exact(a) and exact(b) else a + b


def mul(a, b):
    if not (exact(a) and exact(b)):
        return a * b
    return rounded(Fraction(a) * Fraction(b), (math.copysign(1, a) * math.copysign(1, b)) < 0)


def div(a, b):
    if not (exact(a) and exact(b)):
        return 0.0 if exact(a) else a / b
    return rounded(Fraction(a) / Fraction(b), (math.copysign(1, a) * math.copysign(1, b)) < 0)


def exp(x):
    if math.isnan(x):
        return x
    x = min(max(x, -104.0), 89.0)
    t = fma(x, number(0x3FB8AA3B), number(0x4B400000))
    n, e = add(t, -number(0x4B400000)), bits(t) - 0x4B400000
    r = fma(n, -number(0x3F317200), x)
    r = fma(n, -number(0x35BFBE8E), r)
    p = number(0x3AB5121A)
    for word in (0x3C091CF1, 0x3D2AAC79, 0x3E2AAA49, 0x3EFFFFFE):
        p = fma(p, r, number(word))
    p = add(fma(p, mul(r, r), r), 1.0)
    half = e // 2
    return mul(mul(p, 2.0**half), 2.0 ** (e - half))


def ln(x):
    small = x < 2.0**-126
    x, up = (mul(x, 2.0**23), 23) if small else (x, 0)
    b = (bits(x) - 0x3F3504F3) % 2**32
    e = (b >> 23) - (512 if b >> 31 else 0) - up
    f = add(number((b % 2**23) + 0x3F3504F3), -1.0)
    p = number(0x3D8A2BD4)
    for word in (0xBDEF1E0B, 0x3DF37835, 0xBDFE1104, 0x3E119BB4, 0xBE2AAE27, 0x3E4CD25B, 0xBE800003, 0x3EAAAAA4):
        p = fma(p, f, number(word))
    s = mul(f, f)
    w = fma(mul(s, f), p, mul(float(e), number(0x35BFBE8E)))
    w = fma(s, -0.5, w)
    return fma(float(e), number(0x3F317200), add(f, w))


def sigmoid(x):
    return div(1.0, add(1.0, exp(-x)))


def row_sum(row):
    lanes = [0.0] * 8
    for i, x in enumerate(row):
        lanes[i % 8] = add(lanes[i % 8], x)
    l = lanes
    return add(add(add(l[0], l[4]), add(l[2], l[6])), add(add(l[1], l[5]), add(l[3], l[7])))


def long_sum(values):
    if len(values) <= 4096:
        return row_sum(values)
    return long_sum([row_sum(values[i : i + 4096]) for i in range(0, len(values), 4096)])


def philox(counter, key):
    c, k = list(counter), list(key)
    for _ in range(10):
        left, right = c[0] * 0xD2511F53, c[2] * 0xCD9E8D57
        c = [(right >> 32) ^ c[1] ^ k[0], right % 2**32, (left >> 32) ^ c[3] ^ k[1], left % 2**32]
        k = [(k[0] + 0x9E3779B9) % 2**32, (k[1] + 0xBB67AE85) % 2**32]
    return c


def doubles_exp(x):
    z, s = x / 1024, 1.0
    for n in range(22, 0, -1):
        s = 1.0 + (s * z) / n
    for _ in range(10):
        s = s * s
    return s


def doubles_ln(x):
    h = 0
    while x > 1.5:
        x, h = x / 2, h + 1
    y = (x - 1) / (x + 1)
    q, s = y * y, 0.0
    for n in range(29, -1, -1):
        s = s * q + 1 / (2 * n + 1)
    return h * math.log(2) + (2 * y) * s


def double(word):
    return struct.unpack("<d", struct.pack("<Q", word))[0]


def turn(a):
    k = math.floor(a / (math.pi / 2) + 0.5)
    r = (a - k * double(0x3FF921FB50000000)) - k * double(0x3E5110B4611A6263)
    q, c, s = r * r, 1.0, 1.0
    for m in range(20, 0, -2):
        c = 1.0 - (c * q) / (m * (m - 1))
        s = 1.0 - (s * q) / (m * (m + 1))
    s = s * r
    return [(c, s), (-s, c), (-c, -s), (s, -c)][k % 4]


def rope(position, head, theta):
    frequencies = [doubles_exp(-((doubles_ln(theta) * (2 * i)) / head)) for i in range(head // 2)]
    pairs = [turn(position * frequency) for frequency in frequencies]
    return [c for c, _ in pairs], [s for _, s in pairs]


def word(x):
    return f"{bits(x):08x}"


def single(x):
    return struct.unpack("<f", struct.pack("<f", x))[0]


def noise(count):
    """Numbers of many sizes, positive and negative, from Philox."""
    words = [w for i in range((count + 3) // 4) for w in philox((i, 0, 0, 1), (5, 6))]
    return [number(w & 0x807FFFFF | (118 + (w >> 23) % 12) << 23) for w in words[:count]]


def main():
    points = [0.0, -0.0, 1.0, -1.0, 0.5, 88.0, 88.7, 89.5, -86.0, -87.5, -95.0, -103.5, -105.0, INF, -INF, 1e-30, -3e-8]
    points = [single(x) for x in points] + [single(x * 3.7) for x in noise(40)]
    positive = [1.0, 2.0, 0.5, 1e-45, 1e-40, 1.1754944e-38, 3.4028235e38, 256.0, 0.7071067, 0.70710677, 1.4142135, 1.4142136]
    positive = [single(x) for x in positive] + [abs(x) for x in noise(40)]
    triples = list(zip(noise(30), noise(60)[30:], noise(90)[60:])) + [(number(1), 0.5, 0.0), (number(3), 0.5, number(1)), (-number(1), 0.25, 0.0)]
    sums = [noise(n) for n in (1, 7, 8, 9, 100)] + [noise(9000)]
    json.dump(
        {
            "about": "Functions of f32-fma/1 as bits of single precision, computed from the specification with whole numbers "
            "(crates/training/reference/functions.py). `noise` is how many numbers of its noise() are summed.",
            "fma": [[word(x) for x in (a, b, c, fma(a, b, c))] for a, b, c in triples],
            "exp": [[word(x), word(exp(x))] for x in points],
            "ln": [[word(x), word(ln(x))] for x in positive],
            "sigmoid": [[word(x), word(sigmoid(x))] for x in points],
            "longSums": [{"noise": len(row), "first": word(row[0]), "sum": word(long_sum(row))} for row in sums],
            "philox": [{"counter": c, "key": k, "words": philox(c, k)} for c, k in [((1, 2, 3, 0), (4, 5)), ((9, 0, 2, 0), (7, 0))]],
            "rope": [
                {"position": p, "head": h, "theta": t, "cosines": [word(x) for x in rope(p, h, t)[0]], "sines": [word(x) for x in rope(p, h, t)[1]]}
                for p, h, t in [(0, 4, 10000.0), (1, 16, 10000.0), (511, 16, 10000.0), (8191, 8, 100000.0), (131071, 6, 500000.0)]
            ],
        },
        fp := open("/dev/stdout", "w"),
        separators=(",", ":"),
    )
    print(file=fp)


if __name__ == "__main__":
    main()
