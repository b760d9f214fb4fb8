"""Replays the steps of vectors/training_states.json from docs/spec/12-training-numerics.md, and compares state hashes.

A second implementation: numpy for single precision, whose `+ - * / sqrt` are IEEE 754's, and the fused multiply-add from
doubles by rounding to odd. It shares no code with the one in Rust. Slow, and exact.
Run: python3 replay.py ../../../vectors/training_states.json   (PyPI numpy, blake3)
"""
import json
import sys

import numpy as np
from blake3 import blake3

f32, f64, u32 = np.float32, np.float64, np.uint32
np.seterr(all="ignore")


def fma(a, b, c):
    product = np.asarray(a, f32).astype(f64) * np.asarray(b, f32).astype(f64)
    addend = np.asarray(c, f32).astype(f64)
    total = product + addend
    back = total - product
    lost = (product - (total - back)) + (addend - back)
    words = np.atleast_1d(total).copy().view(np.uint64)
    lost, product_sum = np.atleast_1d(lost), np.atleast_1d(total)
    odd = np.where((lost > 0) == (product_sum > 0), words + np.uint64(1), words - np.uint64(1))
    inexact = (lost != 0) & ~np.isnan(lost) & (words & np.uint64(1) == 0)
    result = np.where(inexact, odd, words).view(f64).astype(f32)
    return result.reshape(np.shape(total))


def of(word):
    return np.array([word], u32).view(f32)[0]


def chain(a, b, start=None):
    """a is [m, k], b is [k, n]: a chain for each output, from zero or from `start`."""
    c = np.zeros((a.shape[0], b.shape[1]), f32) if start is None else start
    for k in range(a.shape[1]):
        c = fma(a[:, k, None], b[k][None, :], c)
    return c


def row_sum(x, y=None):
    """Row sums over the last axis: of x, or of products of x and y."""
    n = x.shape[-1]
    lanes = [np.zeros(x.shape[:-1], f32) for _ in range(8)]
    for i in range(n):
        lanes[i % 8] = lanes[i % 8] + x[..., i] if y is None else fma(x[..., i], y[..., i], lanes[i % 8])
    l = lanes
    return ((l[0] + l[4]) + (l[2] + l[6])) + ((l[1] + l[5]) + (l[3] + l[7]))


def long_sum(values):
    values = np.asarray(values, f32)
    if len(values) <= 4096:
        return row_sum(values)
    return long_sum([row_sum(values[i : i + 4096]) for i in range(0, len(values), 4096)])


def squares(values):
    return long_sum([row_sum(values[i : i + 4096], values[i : i + 4096]) for i in range(0, len(values), 4096)])


def power_of_two(e):
    return ((e + 127).astype(u32) << u32(23)).view(f32)


def exp(x):
    x = np.where(x < f32(-104), f32(-104), x)
    x = np.where(x > f32(89), f32(89), x)
    t = fma(x, of(0x3FB8AA3B), of(0x4B400000))
    n = t - of(0x4B400000)
    e = t.view(np.int32) - np.int32(0x4B400000)
    r = fma(n, -of(0x3F317200), x)
    r = fma(n, -of(0x35BFBE8E), r)
    p = np.full_like(r, of(0x3AB5121A))
    for word in (0x3C091CF1, 0x3D2AAC79, 0x3E2AAA49, 0x3EFFFFFE):
        p = fma(p, r, of(word))
    p = fma(p, r * r, r) + f32(1)
    half = e >> 1
    return p * power_of_two(half) * power_of_two(e - half)


def ln(x):
    b = x.view(u32) - u32(0x3F3504F3)
    e = (b.view(np.int32) >> 23).astype(f32)
    f = ((b & u32(0x7FFFFF)) + u32(0x3F3504F3)).view(f32) - f32(1)
    p = np.full_like(f, of(0x3D8A2BD4))
    for word in (0xBDEF1E0B, 0x3DF37835, 0xBDFE1104, 0x3E119BB4, 0xBE2AAE27, 0x3E4CD25B, 0xBE800003, 0x3EAAAAA4):
        p = fma(p, f, of(word))
    s = f * f
    w = fma(s, f32(-0.5), fma(s * f, p, e * of(0x35BFBE8E)))
    return fma(e, of(0x3F317200), f + w)


def sigmoid(x):
    return f32(1) / (f32(1) + exp(-x))


def philox(counter, key):
    c, k = list(counter), list(key)
    for _ in range(10):
        left, right = c[0] * 0xD2511F53, c[2] * 0xCD9E8D57
        c = [(right >> 32) ^ c[1] ^ k[0], right % 2**32, (left >> 32) ^ c[3] ^ k[1], left % 2**32]
        k = [(k[0] + 0x9E3779B9) % 2**32, (k[1] + 0xBB67AE85) % 2**32]
    return c


def fresh(tensors, seed):
    """Tensors are [name, shape, fill], where fill is a bound, "one" or "zero"."""
    values = {}
    for index, (name, shape, fill) in enumerate(tensors):
        count = int(np.prod(shape))
        if isinstance(fill, str):
            flat = np.full(count, 1 if fill == "one" else 0, f32)
        else:
            words = [w for b in range((count + 3) // 4) for w in philox((b, 0, index, 0), (seed, 0))][:count]
            flat = np.array([(w >> 8) - 2**23 for w in words], f32) / f32(2**23) * fill
        values[name] = flat.reshape(shape)
    return values


class Model:
    def __init__(self, d, layers, heads, kv, head, hidden, vocabulary, theta, epsilon):
        self.d, self.layers, self.heads, self.kv, self.head, self.hidden = d, layers, heads, kv, head, hidden
        self.epsilon, self.vocabulary = f32(epsilon), vocabulary
        self.scale = f32(1) / np.sqrt(f32(head))
        self.theta = float(theta)

    def shapes(self):
        even = f32(0.02) * np.sqrt(f32(3))
        down = even / np.sqrt(f32(2) * f32(self.layers))
        q, k, f, d = self.heads * self.head, self.kv * self.head, self.hidden, self.d
        yield "embed", (self.vocabulary, d), even
        for i in range(self.layers):
            yield from [(f"{i}.n1", (d,), "one"), (f"{i}.q", (q, d), even), (f"{i}.k", (k, d), even), (f"{i}.v", (k, d), even)]
            yield from [(f"{i}.o", (d, q), down), (f"{i}.n2", (d,), "one"), (f"{i}.gate", (f, d), even)]
            yield from [(f"{i}.up", (f, d), even), (f"{i}.down", (d, f), down)]
        yield "norm", (d,), "one"

    def tables(self, tokens):
        from functions import rope  # the page's series in doubles

        pairs = [rope(p, self.head, self.theta) for p in range(tokens)]
        return np.array([c for c, _ in pairs], f32), np.array([s for _, s in pairs], f32)


def norm(x, gain, epsilon):
    r = f32(1) / np.sqrt(row_sum(x, x) / f32(x.shape[1]) + epsilon)
    return (x * r[:, None]) * gain, r


def norm_back(x, gain, r, dy, residual):
    t = dy * gain
    p = ((r * r) * r) * (row_sum(t, x) / f32(x.shape[1]))
    dx = fma(x, -p[:, None], fma(r[:, None], t, residual))
    dg = np.zeros_like(gain)
    for row in range(x.shape[0]):
        dg = fma(dy[row], x[row] * r[row], dg)
    return dx, dg


def turned(x, c, s):
    """x is [tokens, heads, head]; c and s are [tokens, head / 2]."""
    half = x.shape[-1] // 2
    a, b = x[..., :half], x[..., half:]
    c, s = c[:, None, :], s[:, None, :]
    return np.concatenate([fma(-b, s, a * c), fma(a, s, b * c)], -1)


def until_here(weights, values):
    """For each query a chain over the keys up to its own."""
    c = np.zeros((weights.shape[0], values.shape[1]), f32)
    for j in range(values.shape[0]):
        c[j:] = fma(weights[j:, j, None], values[j][None], c[j:])
    return c


class Pass:
    """Both passes over all windows of a step; `adapters` is (values, factor) or None."""

    def __init__(self, model, weights, adapters):
        self.m, self.w, self.adapters, self.g, self.low = model, weights, adapters, {}, {}

    def linear(self, layer, names, x):
        """The product with matrices side by side, each with its adapter."""
        outs = []
        for name in names:
            y = chain(x, self.w[f"{layer}.{name}"].T)
            key = f"{layer}.{name}"
            if self.adapters and key + ".A" in self.adapters[0]:
                values, factor = self.adapters
                self.low[key] = chain(x, values[key + ".A"].T) * factor
                y = chain(self.low[key], values[key + ".B"].T, y)
            outs.append(y)
        return outs

    def linear_back(self, layer, names, x, dys):
        stacked = np.concatenate([self.w[f"{layer}.{name}"] for name in names])
        dx = chain(np.concatenate(dys, 1), stacked)
        for name, dy in zip(names, dys):
            key = f"{layer}.{name}"
            if not self.adapters:
                self.g[key] = chain(dy.T, x)
            elif key + ".A" in self.adapters[0]:
                values, factor = self.adapters
                dt = chain(dy, values[key + ".B"]) * factor
                dx = chain(dt, values[key + ".A"], dx)
                self.g[key + ".A"], self.g[key + ".B"] = chain(dt.T, x), chain(dy.T, self.low[key])
        return dx

    def attention(self, q, k, v):
        """One head of one window: outputs, and what the backward pass needs."""
        tokens = q.shape[0]
        z = chain(q, k.T) * self.m.scale
        z[np.triu_indices(tokens, 1)] = -np.inf
        top = z.max(1)
        e = exp(z - top[:, None])
        e[np.triu_indices(tokens, 1)] = 0
        n = f32(1) / row_sum(e)
        out = until_here(e, v)
        return (out + f32(0)) * n[:, None], (e * n[:, None]).astype(f32)

    def attention_back(self, q, k, v, p, out, dout, dk, dv):
        tokens = q.shape[0]
        big = row_sum(dout, out)
        ds = (p * (chain(dout, v.T) - big[:, None])) * self.m.scale
        ds[np.triu_indices(tokens, 1)] = 0
        dq = until_here(ds, k)
        for i in range(tokens):
            dk[: i + 1] = fma(ds[i, : i + 1, None], q[i][None], dk[: i + 1])
            dv[: i + 1] = fma(p[i, : i + 1, None], dout[i][None], dv[: i + 1])
        return dq

    def run(self, windows):
        m, w, z = self.m, self.w, f32(0)
        ids = np.array(windows)
        read, told = ids[:, :-1], ids[:, 1:].reshape(-1)
        count, tokens = read.shape
        c, s = m.tables(tokens)
        x, kept = w["embed"][read.reshape(-1)], []
        group = m.heads // m.kv
        shaped = lambda y, heads: y.reshape(count, tokens, heads, m.head)
        for i in range(m.layers):
            h, r1 = norm(x, w[f"{i}.n1"], m.epsilon)
            q, k, v = self.linear(i, ["q", "k", "v"], h)
            q, k, v = shaped(q, m.heads), shaped(k, m.kv), shaped(v, m.kv)
            q, k = (np.stack([turned(y, c, s) for y in part]) for part in (q, k))
            out, probabilities = np.zeros_like(q), {}
            for b in range(count):
                for a in range(m.heads):
                    out[b, :, a], probabilities[b, a] = self.attention(q[b, :, a], k[b, :, a // group], v[b, :, a // group])
            attended = out.reshape(count * tokens, -1)
            (o,) = self.linear(i, ["o"], attended)
            y = x + o
            h2, r2 = norm(y, w[f"{i}.n2"], m.epsilon)
            gate, up = self.linear(i, ["gate", "up"], h2)
            inner = (gate * sigmoid(gate)) * up
            (down,) = self.linear(i, ["down"], inner)
            kept.append((x, r1, h, q, k, v, probabilities, out, attended, y, r2, h2, gate, up, inner))
            x = y + down
        last, r = norm(x, w["norm"], m.epsilon)
        logits = chain(last, w["embed"].T)
        top = logits.max(1)
        e = exp(logits - top[:, None])
        l = row_sum(e)
        rows = np.arange(len(told))
        losses = (ln(l) + top) - logits[rows, told]
        weight = f32(1) / f32(len(told))
        d = e * ((f32(1) / l) * weight)[:, None]
        d[rows, told] = d[rows, told] - weight
        dlast = chain(d, w["embed"])
        dx, dnorm = norm_back(x, w["norm"], r, dlast, np.zeros_like(x))
        dembed = None if self.adapters else chain(d.T, last)
        for i in reversed(range(m.layers)):
            x, r1, h, q, k, v, probabilities, out, attended, y, r2, h2, gate, up, inner = kept[i]
            dh = self.linear_back(i, ["down"], inner, [dx])
            sg = sigmoid(gate)
            a = gate * sg
            dgate, dup = (dh * up) * fma(a, f32(1) - sg, sg), dh * a
            dh2 = self.linear_back(i, ["gate", "up"], h2, [dgate, dup])
            dy, dn2 = norm_back(y, w[f"{i}.n2"], r2, dh2, dx)
            dout = self.linear_back(i, ["o"], attended, [dy]).reshape(count, tokens, m.heads, m.head)
            dq, dk, dv = np.zeros_like(q), np.zeros_like(k), np.zeros_like(v)
            for b in range(count):
                for a_ in range(m.heads):
                    g = a_ // group
                    dk_, dv_ = np.ascontiguousarray(dk[b, :, g]), np.ascontiguousarray(dv[b, :, g])
                    args = (q[b, :, a_], k[b, :, g], v[b, :, g], probabilities[b, a_], out[b, :, a_], dout[b, :, a_])
                    dq[b, :, a_] = self.attention_back(*args, dk_, dv_)
                    dk[b, :, g], dv[b, :, g] = dk_, dv_
            dq, dk = (np.stack([turned(y_ + z, c, -s) for y_ in part]) for part in (dq, dk))
            flat = [part.reshape(count * tokens, -1) for part in (dq, dk, dv + z)]
            dh1 = self.linear_back(i, ["q", "k", "v"], h, flat)
            dx, dn1 = norm_back(x, w[f"{i}.n1"], r1, dh1, dy)
            self.g[f"{i}.n1"], self.g[f"{i}.n2"] = dn1, dn2
        if dembed is not None:
            for row, token in enumerate(read.reshape(-1)):
                dembed[token] = dembed[token] + dx[row]
            self.g["embed"], self.g["norm"] = dembed, dnorm
        return long_sum(losses) / f32(len(losses))


def power(base, exponent):
    result, square = 1.0, base
    while exponent:
        if exponent & 1:
            result *= square
        square *= square
        exponent >>= 1
    return result


def single(x):
    return float(f32(x))


def adamw(step, rate, clip, w, g, m, v, decays):
    b1, b2, eps, decay = single(0.9), single(0.95), f32(1e-8), single(0.1)
    keep = f32(1.0 - rate * decay) if decays else f32(1)
    g = g * clip
    m = fma(f32(b1), m, f32(1.0 - b1) * g)
    v = fma(f32(b2), v, (f32(1.0 - b2) * g) * g)
    below = fma(np.sqrt(v), f32(1.0 / np.sqrt(1.0 - power(b2, step))), eps)
    return fma(-f32(rate / (1.0 - power(b1, step))), m / below, w * keep), m, v


def muon(clip, w, g, v):
    mu, rate, decay = single(0.95), single(0.02), single(0.1)
    fresh_part = f32(1.0 - mu) * (g * clip)
    v = fma(f32(mu), v, fresh_part)
    u = fma(f32(mu), v, fresh_part)
    x = u * (f32(1) / (np.sqrt(squares(u.reshape(-1))) + f32(1e-7)))
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    for _ in range(5):
        gram = chain(x, x.T)
        mix = fma(f32(2.0315), chain(gram, gram), f32(-4.775) * gram)
        x = chain(mix, x, f32(3.4445) * x)
    x = x.T if tall else x
    stretch = np.sqrt(max(w.shape[0] / w.shape[1], 1.0))
    return fma(-f32(rate * stretch), x, w * f32(1.0 - rate * decay)), v


def state_hash(step, trained, first, second):
    hasher = blake3(derive_key_context="hearth training state f32-fma/1")
    hasher.update(np.uint64(step).tobytes())
    for part in (trained, first, second):
        flat = np.concatenate([np.asarray(x, f32).reshape(-1) for x in part]) if part else np.zeros(0, f32)
        hasher.update(np.uint64(len(flat)).tobytes())
        hasher.update(flat.astype("<f4").tobytes())
    return hasher.hexdigest()


def replay(text, kind):
    model = Model(40, 2, 4, 2, 10, 86, 256, 10000.0, 1e-5)
    shapes = list(model.shapes())
    weights = fresh(shapes, 7)
    trained, adapters = weights, None
    if kind == "adapter":
        sizes = {name: shape for name, shape, _ in shapes}
        own = []
        for i in range(2):
            for target in ("q", "v", "gate", "down"):
                rows, columns = sizes[f"{i}.{target}"]
                own.append((f"{i}.{target}.A", (5, columns), f32(1) / np.sqrt(f32(columns))))
                own.append((f"{i}.{target}.B", (rows, 5), "zero"))
        trained = fresh(own, 8)
        adapters = (trained, f32(10) / f32(5))
    turns = [n for n, w in trained.items() if kind == "muon" and w.ndim == 2 and n != "embed"]
    first = {n: np.zeros_like(w) for n, w in trained.items()}
    second = {n: np.zeros_like(w) for n, w in trained.items() if n not in turns}
    data, at = text.encode(), 0
    for step in range(1, 4):
        windows = [[data[(at + i * 62 + j) % len(data)] for j in range(62)] for i in range(5)]
        at += 5 * 62
        run = Pass(model, weights, adapters)
        loss = run.run(windows)
        total = np.sqrt(long_sum([squares(run.g[n].reshape(-1)) for n in trained]))
        clip = f32(1) / (total + f32(1e-6))
        clip = clip if clip < 1 else f32(1)
        peak = single(3e-3)
        rate = peak * step / 2 if step < 2 else peak
        for n in trained:
            w, g = trained[n], run.g[n]
            if n in turns:
                trained[n], first[n] = muon(clip, w, g, first[n])
            else:
                trained[n], first[n], second[n] = adamw(step, rate, clip, w, g, first[n], second[n], w.ndim > 1)
        print(f"{kind}: step {step}, loss {loss:.6f}, norm {total:.6f}", file=sys.stderr)
    return state_hash(3, list(trained.values()), list(first.values()), list(second.values()))


def main():
    vectors = json.load(open(sys.argv[1]))
    wrong = 0
    for kind, wanted in vectors["states"].items():
        found = replay(vectors["text"], kind)
        print(kind, "the same" if found == wanted else f"DIFFERENT: {found}, not {wanted}")
        wrong += found != wanted
    sys.exit(wrong)


if __name__ == "__main__":
    main()
