"""Makes vectors/training.json: losses, gradients and steps of a small model as PyTorch computes them.

Nothing here is Hearth's: the model is written out in PyTorch's own operations, in double precision where that says
what single precision should come close to. The tests read the file and need no PyTorch.
Run: python3 vectors.py > ../../../vectors/training.json   (Debian python3-torch)
"""
import json
import math
import sys

import torch

torch.manual_seed(20261129)
torch.set_default_dtype(torch.float64)


def rounded(tensor):
    """Values that single precision holds exactly."""
    return tensor.to(torch.float32).to(torch.float64)


def numbers(tensor):
    return [float(f"{value:.9g}") for value in tensor.detach().reshape(-1).tolist()]


def shapes(a):
    d, q, kv, f = a["width"], a["queryHeads"] * a["head"], a["keyValueHeads"] * a["head"], a["hidden"]
    yield "model.embed_tokens.weight", (a["vocabulary"], d)
    for i in range(a["layers"]):
        p = f"model.layers.{i}."
        yield p + "input_layernorm.weight", (d,)
        yield p + "self_attn.q_proj.weight", (q, d)
        yield p + "self_attn.k_proj.weight", (kv, d)
        yield p + "self_attn.v_proj.weight", (kv, d)
        yield p + "self_attn.o_proj.weight", (d, q)
        yield p + "post_attention_layernorm.weight", (d,)
        yield p + "mlp.gate_proj.weight", (f, d)
        yield p + "mlp.up_proj.weight", (f, d)
        yield p + "mlp.down_proj.weight", (d, f)
    yield "model.norm.weight", (d,)
    if not a["tiedHead"]:
        yield "lm_head.weight", (a["vocabulary"], d)


def norm(x, gain, epsilon):
    return x * torch.rsqrt((x * x).mean(-1, keepdim=True) + epsilon) * gain


def turn(x, theta):
    """Rotary positions with the halves of a head as pairs, as transformers has them; x is [.., tokens, head]."""
    tokens, head = x.shape[-2], x.shape[-1]
    frequency = theta ** (-torch.arange(0, head, 2, dtype=torch.float64) / head)
    angle = torch.outer(torch.arange(tokens, dtype=torch.float64), frequency)
    c, s = angle.cos(), angle.sin()
    first, second = x[..., : head // 2], x[..., head // 2 :]
    return torch.cat([first * c - second * s, second * c + first * s], -1)


def product(x, weights, name, adapter):
    y = x @ weights[name].T
    if adapter:
        stem = "base_model.model." + name.removesuffix(".weight")
        a, b = (weights.get(f"{stem}.lora_{side}.weight") for side in "AB")
        if a is not None:
            y = y + (x @ a.T) * (adapter["alpha"] / adapter["rank"]) @ b.T
    return y


def loss_of(a, weights, windows, adapter=None):
    ids = torch.tensor(windows)
    read, told = ids[:, :-1], ids[:, 1:]
    batch, tokens = read.shape
    x = weights["model.embed_tokens.weight"][read]
    heads = lambda y, n: y.view(batch, tokens, n, a["head"]).transpose(1, 2)
    for i in range(a["layers"]):
        p = f"model.layers.{i}."
        h = norm(x, weights[p + "input_layernorm.weight"], a["normEpsilon"])
        q = turn(heads(product(h, weights, p + "self_attn.q_proj.weight", adapter), a["queryHeads"]), a["ropeTheta"])
        k = turn(heads(product(h, weights, p + "self_attn.k_proj.weight", adapter), a["keyValueHeads"]), a["ropeTheta"])
        v = heads(product(h, weights, p + "self_attn.v_proj.weight", adapter), a["keyValueHeads"])
        group = a["queryHeads"] // a["keyValueHeads"]
        k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
        scores = q @ k.transpose(-1, -2) / math.sqrt(a["head"])
        scores = scores.masked_fill(torch.ones(tokens, tokens).triu(1).bool(), -math.inf)
        o = (scores.softmax(-1) @ v).transpose(1, 2).reshape(batch, tokens, -1)
        x = x + product(o, weights, p + "self_attn.o_proj.weight", adapter)
        h = norm(x, weights[p + "post_attention_layernorm.weight"], a["normEpsilon"])
        gate = torch.nn.functional.silu(product(h, weights, p + "mlp.gate_proj.weight", adapter))
        inner = gate * product(h, weights, p + "mlp.up_proj.weight", adapter)
        x = x + product(inner, weights, p + "mlp.down_proj.weight", adapter)
    x = norm(x, weights["model.norm.weight"], a["normEpsilon"])
    head = weights["model.embed_tokens.weight" if a["tiedHead"] else "lm_head.weight"]
    return torch.nn.functional.cross_entropy((x @ head.T).flatten(0, 1), told.flatten())


def fresh(a):
    return {
        name: rounded(torch.randn(shape) * 0.3 + (1.0 if len(shape) == 1 else 0.0))
        for name, shape in shapes(a)
    }


def adapters(a, adapter):
    outputs = {"q_proj": ("self_attn", a["queryHeads"] * a["head"], a["width"]),
               "k_proj": ("self_attn", a["keyValueHeads"] * a["head"], a["width"]),
               "v_proj": ("self_attn", a["keyValueHeads"] * a["head"], a["width"]),
               "o_proj": ("self_attn", a["width"], a["queryHeads"] * a["head"]),
               "gate_proj": ("mlp", a["hidden"], a["width"]), "up_proj": ("mlp", a["hidden"], a["width"]),
               "down_proj": ("mlp", a["width"], a["hidden"])}
    found = {}
    for i in range(a["layers"]):
        for target in adapter["targets"]:
            block, rows, columns = outputs[target]
            stem = f"base_model.model.model.layers.{i}.{block}.{target}"
            found[f"{stem}.lora_A.weight"] = rounded(torch.randn(adapter["rank"], columns) * 0.3)
            found[f"{stem}.lora_B.weight"] = rounded(torch.randn(rows, adapter["rank"]) * 0.3)
    return found


def clip(trained, most):
    norm = torch.sqrt(sum((w.grad ** 2).sum() for w in trained))
    factor = min(1.0, float(most / (norm + 1e-6)))
    for w in trained:
        w.grad *= factor
    return norm


def turned(gradient):
    """Five Newton-Schulz steps, as in Muon's published code, without its bfloat16."""
    x = gradient / (gradient.norm() + 1e-7)
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    for _ in range(5):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x.T if tall else x


def muon(w, state, rate, beta, decay):
    velocity = state.setdefault("v", torch.zeros_like(w))
    velocity.lerp_(w.grad, 1 - beta)
    direction = turned(w.grad.lerp(velocity, beta))
    w.data.mul_(1 - rate * decay)
    w.data.add_(direction, alpha=-rate * max(1.0, w.shape[0] / w.shape[1]) ** 0.5)


def train(a, start, trained_names, steps, windows, settings, adapter=None):
    weights = {name: value.clone() for name, value in start.items()}
    trained = {name: weights[name].requires_grad_() for name in trained_names}
    adam = settings["adamw"]
    turns = [n for n, w in trained.items() if settings["muon"] and w.dim() == 2 and (".layers." in n)]
    groups = [
        {"params": [w for n, w in trained.items() if n not in turns and w.dim() > 1], "weight_decay": adam["decay"]},
        {"params": [w for n, w in trained.items() if n not in turns and w.dim() == 1], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    rest = torch.optim.AdamW(groups, lr=adam["rate"], betas=(adam["beta1"], adam["beta2"]), eps=adam["epsilon"]) if groups else None
    states = {name: {} for name in turns}
    losses, norms = [], []
    for _ in range(steps):
        for w in trained.values():
            w.grad = None
        loss = loss_of(a, weights, windows, adapter)
        loss.backward()
        losses.append(loss.item())
        norms.append(float(clip(list(trained.values()), settings["clipNorm"])))
        if rest:
            rest.step()
        with torch.no_grad():
            for name in turns:
                m = settings["muon"]
                muon(trained[name], states[name], m["rate"], m["momentum"], m["decay"])
    return losses, norms, trained


def case(name, a, settings, adapter=None, steps=3):
    windows = torch.randint(0, a["vocabulary"], (a["windows"], a["tokens"] + 1)).tolist()
    weights = fresh(a)
    names = list(weights)
    start = dict(weights)
    if adapter:
        extra = adapters(a, adapter)
        start.update(extra)
        names = list(extra)
    once = {n: w.clone().requires_grad_(n in names) for n, w in start.items()}
    loss = loss_of(a, once, windows, adapter)
    loss.backward()
    losses, norms, trained = train(a, start, names, steps, windows, settings, adapter)
    return {
        "name": name, "architecture": a, "adapter": adapter, "settings": settings, "windows": windows,
        "weights": {n: numbers(w) for n, w in start.items()},
        "loss": loss.item(),
        "gradients": {n: numbers(once[n].grad) for n in names},
        "steps": {"losses": losses, "norms": norms, "weights": {n: numbers(w) for n, w in trained.items()}},
    }


small = {"vocabulary": 19, "width": 12, "layers": 2, "queryHeads": 4, "keyValueHeads": 2, "head": 6, "hidden": 20,
         "ropeTheta": 10000.0, "normEpsilon": 1e-5, "tiedHead": True, "windows": 2, "tokens": 7}
untied = {**small, "keyValueHeads": 1, "head": 4, "hidden": 9, "tiedHead": False, "windows": 1, "tokens": 21, "layers": 1,
          "ropeTheta": 100000.0}
adamw = {"rate": 0.01, "beta1": 0.9, "beta2": 0.95, "epsilon": 1e-8, "decay": 0.1}
with_adamw = {"clipNorm": 1.0, "adamw": adamw, "muon": None}
with_muon = {"clipNorm": 1.0, "adamw": adamw, "muon": {"rate": 0.02, "momentum": 0.95, "decay": 0.1}}
lora = {"rank": 3, "alpha": 6.0, "targets": ["q_proj", "v_proj", "o_proj", "up_proj", "down_proj"]}
json.dump(
    {
        "about": "Losses, gradients and three steps of small models by PyTorch in double precision "
        "(crates/training/reference/vectors.py); single precision must come within 1e-4 of them.",
        "cases": [
            case("tied, grouped heads, AdamW", small, with_adamw),
            case("untied, one key-value head, Muon", untied, with_muon),
            case("tied, grouped heads, Muon", small, with_muon),
            case("adapter over frozen weights, AdamW", small, with_adamw, lora),
        ],
    },
    sys.stdout,
    indent=None,
    separators=(",", ":"),
)
print()
