"""The models of `examples/speed.rs` in PyTorch at its best settings, for `cargo xtask bench training`.

Says what it is, then reads numbers of steps, and answers each with the seconds that they took, by the clock and of the
processor. Run: python3 bench_torch.py NAME THREADS eager|compiled
"""
import json
import math
import sys
import time

import torch
import torch.nn.functional as F

torch.set_num_threads(int(sys.argv[2]))

# name: vocabulary, width, layers, query heads, key-value heads, hidden, tokens, windows, adapter
CASES = {
    "1M": (256, 128, 5, 4, 2, 344, 256, 16, False),
    "10M": (2048, 320, 8, 5, 5, 864, 256, 8, False),
    "50M": (8192, 512, 14, 8, 4, 1408, 512, 4, False),
    "lora": (49152, 576, 30, 9, 3, 1536, 256, 2, True),
}


class Linear(torch.nn.Module):
    def __init__(self, inputs, outputs, adapter):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.randn(outputs, inputs) * 0.02, requires_grad=not adapter)
        if adapter:
            self.a = torch.nn.Parameter(torch.randn(8, inputs) * 0.02)
            self.b = torch.nn.Parameter(torch.zeros(outputs, 8))
        self.adapter = adapter

    def forward(self, x):
        y = F.linear(x, self.weight)
        return y + F.linear(F.linear(x, self.a) * 2.0, self.b) if self.adapter else y


class Layer(torch.nn.Module):
    def __init__(self, d, heads, kv, hidden, adapter):
        super().__init__()
        self.heads, self.kv, self.head = heads, kv, d // heads
        self.q, self.k, self.v = (Linear(d, n * self.head, adapter) for n in (heads, kv, kv))
        self.o = Linear(heads * self.head, d, adapter)
        self.gate, self.up, self.down = Linear(d, hidden, adapter), Linear(d, hidden, adapter), Linear(hidden, d, adapter)
        self.n1, self.n2 = (torch.nn.Parameter(torch.ones(d), requires_grad=not adapter) for _ in range(2))

    def forward(self, x, c, s, mask):
        batch, tokens, _ = x.shape
        h = norm(x, self.n1)
        heads = lambda y, n: y.view(batch, tokens, n, self.head).transpose(1, 2)
        q, k, v = turn(heads(self.q(h), self.heads), c, s), turn(heads(self.k(h), self.kv), c, s), heads(self.v(h), self.kv)
        k, v = (y.repeat_interleave(self.heads // self.kv, 1) for y in (k, v))
        if hasattr(F, "scaled_dot_product_attention"):
            o = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        else:
            o = ((q @ k.transpose(-1, -2)) / math.sqrt(self.head) + mask).softmax(-1) @ v
        x = x + self.o(o.transpose(1, 2).reshape(batch, tokens, -1))
        h = norm(x, self.n2)
        return x + self.down(F.silu(self.gate(h)) * self.up(h))


def norm(x, gain):
    return x * torch.rsqrt((x * x).mean(-1, keepdim=True) + 1e-5) * gain


def turn(x, c, s):
    a, b = x.chunk(2, -1)
    return torch.cat([a * c - b * s, b * c + a * s], -1)


class Llama(torch.nn.Module):
    def __init__(self, v, d, layers, heads, kv, hidden, tokens, windows, adapter):
        super().__init__()
        self.embedding = torch.nn.Parameter(torch.randn(v, d) * 0.02, requires_grad=not adapter)
        self.layers = torch.nn.ModuleList(Layer(d, heads, kv, hidden, adapter) for _ in range(layers))
        self.norm = torch.nn.Parameter(torch.ones(d), requires_grad=not adapter)
        head = d // heads
        angle = torch.outer(torch.arange(tokens), 10000.0 ** (-torch.arange(0, head, 2) / head))
        self.c, self.s = angle.cos(), angle.sin()
        self.mask = torch.full((tokens, tokens), -math.inf).triu(1)

    def forward(self, read, told):
        x = F.embedding(read, self.embedding)
        for layer in self.layers:
            x = layer(x, self.c, self.s, self.mask)
        return F.cross_entropy(F.linear(norm(x, self.norm), self.embedding).flatten(0, 1), told.flatten())


def adamw(trained):
    settings = {"lr": 1e-3, "betas": (0.9, 0.95), "weight_decay": 0.1}
    try:
        return torch.optim.AdamW(trained, fused=True, **settings)
    except (RuntimeError, TypeError):
        return torch.optim.AdamW(trained, foreach=True, **settings)


def main():
    v, d, layers, heads, kv, hidden, tokens, windows, adapter = CASES[sys.argv[1]]
    model = Llama(*CASES[sys.argv[1]])
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = adamw(trained)
    ids = torch.randint(0, v, (windows, tokens + 1))
    read, told = ids[:, :-1].contiguous(), ids[:, 1:].contiguous()
    loss = torch.compile(model) if sys.argv[3] == "compiled" else model

    def step():
        optimizer.zero_grad(set_to_none=True)
        loss(read, told).backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()

    for _ in range(2):
        step()
    print(json.dumps({"version": torch.__version__, "threads": torch.get_num_threads()}), flush=True)
    for line in sys.stdin:
        started, computed = time.perf_counter(), time.process_time()
        for _ in range(int(line)):
            step()
        said = {"clock_s": time.perf_counter() - started, "computed_s": time.process_time() - computed}
        print(json.dumps(said), flush=True)


main()
