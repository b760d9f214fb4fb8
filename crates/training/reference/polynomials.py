"""Fits the polynomials of docs/spec/12-training-numerics.md, section 4, and prints their coefficients.

Lawson's iteratively weighted least squares on Chebyshev nodes, relative error; then rounded to single precision.
The printed bits are what the specification states: they are not computed again by anything that trains.
Run: python3 polynomials.py   (needs numpy)
"""
import numpy as np


def lawson(nodes, basis, target, scale, rounds=400):
    weights = np.ones_like(nodes)
    for _ in range(rounds):
        root = np.sqrt(weights) * scale
        solution, *_ = np.linalg.lstsq(basis * root[:, None], target * root, rcond=None)
        error = np.abs((basis @ solution - target) * scale)
        weights = weights * error
        weights /= weights.sum()
    return solution, error.max()


def nodes_of(low, high, count=4000):
    angle = np.pi * (np.arange(count) + 0.5) / count
    return (low + high) / 2 + (high - low) / 2 * np.cos(angle)


def show(name, solution, error):
    print(name, "relative error", error)
    for value in solution.astype(np.float32):
        print(f"  {value!r:>16} {int(value.view(np.uint32)):#010x}")


half = np.log(2) / 2 * 1.0001
r = nodes_of(-half, half)
# exp(r) = 1 + r + r^2 (c2 + c3 r + .. + c6 r^4)
basis = np.stack([r ** k for k in range(5)], axis=1)
solution, error = lawson(r, basis, (np.expm1(r) - r) / r ** 2, r ** 2 / np.exp(r))
show("exp: c2..c6", solution, error)

f = nodes_of(np.sqrt(0.5) - 1.0001 + 1e-4, np.sqrt(2.0) - 1)
# ln(1 + f) = f - f^2 / 2 + f^3 (c0 + c1 f + .. + c8 f^8)
basis = np.stack([f ** k for k in range(9)], axis=1)
solution, error = lawson(f, basis, (np.log1p(f) - f + f ** 2 / 2) / f ** 3, np.abs(f ** 3 / np.log1p(f)))
show("ln: c0..c8", solution, error)
