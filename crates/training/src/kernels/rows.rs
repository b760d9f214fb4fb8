//! What is done to rows of activations between matrix products (spec: training numerics, section 5).
//!
//! A matrix of activations has a row for each token; every kernel here treats its rows alone.

use crate::kernels::dispatch::kernel;
use crate::kernels::fma::Fma;
use crate::kernels::functions::{exp, ln, rsqrt, sigmoid};
use crate::kernels::lanes::{fold, fold2};

kernel! {
    /// Root-mean-square norm of each row of `x`, as wide as `gain`: `out = (x * r) * gain`, `r` into `inverse`.
    norm<F>(x: &[f32], gain: &[f32], epsilon: f32, out: &mut [f32], inverse: &mut [f32]) {
        let width = gain.len();
        let count = width as f32;
        for ((x, out), inverse) in x.chunks_exact(width).zip(out.chunks_exact_mut(width)).zip(inverse) {
            let squares = fold(x, |x, lane| F::fma(x, x, lane));
            let r = rsqrt(squares / count + epsilon);
            for ((out, x), g) in out.iter_mut().zip(x).zip(gain) {
                *out = (x * r) * g;
            }
            *inverse = r;
        }
    }
}

kernel! {
    /// The norm once more, from the `inverse` that the forward pass kept.
    norm_again<F>(x: &[f32], gain: &[f32], inverse: &[f32], out: &mut [f32]) {
        let width = gain.len();
        for ((x, out), r) in x.chunks_exact(width).zip(out.chunks_exact_mut(width)).zip(inverse) {
            for ((out, x), g) in out.iter_mut().zip(x).zip(gain) {
                *out = (x * r) * g;
            }
        }
    }
}

kernel! {
    /// Backward of [`norm`]: with `t = gradient * gain`, `out = residual + (r t - x (r^3 (sum of t x) / width))`.
    norm_backward<F>(
        x: &[f32],
        gain: &[f32],
        inverse: &[f32],
        gradient: &[f32],
        residual: &[f32],
        out: &mut [f32],
    ) {
        let width = gain.len();
        let count = width as f32;
        let rows = x.chunks_exact(width).zip(gradient.chunks_exact(width)).zip(residual.chunks_exact(width));
        for ((((x, dy), residual), out), r) in rows.zip(out.chunks_exact_mut(width)).zip(inverse) {
            // `out` holds t until its sum is known.
            for ((t, dy), g) in out.iter_mut().zip(dy).zip(gain) {
                *t = dy * g;
            }
            let total = fold2(out, x, |t, x, lane| F::fma(t, x, lane));
            let pull = ((r * r) * r) * (total / count);
            for ((out, x), residual) in out.iter_mut().zip(x).zip(residual) {
                *out = F::fma(*x, -pull, F::fma(*r, *out, *residual));
            }
        }
    }
}

kernel! {
    /// Gradient of the gain for the columns from `first` on: each a chain over rows of `gradient * (x * r)`.
    norm_gain<F>(
        x: &[f32],
        gradient: &[f32],
        inverse: &[f32],
        width: usize,
        first: usize,
        out: &mut [f32],
    ) {
        let columns = first..first + out.len();
        for ((x, dy), r) in x.chunks_exact(width).zip(gradient.chunks_exact(width)).zip(inverse) {
            for ((sum, x), dy) in out.iter_mut().zip(&x[columns.clone()]).zip(&dy[columns.clone()]) {
                *sum = F::fma(*dy, x * r, *sum);
            }
        }
    }
}

/// Which way positions turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// Forward pass.
    Forward,
    /// The transpose, for gradients.
    Back,
}

kernel! {
    /// Turns each head of a row by its position: halves `a`, `b` become `a c - b s` and `b c + a s`, the second product
    /// of each fused. `cosines` and `sines` are the row's, half a head wide.
    turn_heads<F>(row: &mut [f32], head: usize, cosines: &[f32], sines: &[f32], turn: Turn) {
        let half = head / 2;
        for head in row.chunks_exact_mut(head) {
            let (first, second) = head.split_at_mut(half);
            for (((a, b), c), s) in first.iter_mut().zip(second).zip(cosines).zip(sines) {
                let s = if turn == Turn::Forward { *s } else { -*s };
                let (x, y) = (*a, *b);
                *a = F::fma(-y, s, x * c);
                *b = F::fma(x, s, y * c);
            }
        }
    }
}

kernel! {
    /// `out = silu(gate) * up`; a row of `gate_up` has the gate's half and then the other.
    swiglu<F>(gate_up: &[f32], hidden: usize, out: &mut [f32]) {
        for (row, out) in gate_up.chunks_exact(2 * hidden).zip(out.chunks_exact_mut(hidden)) {
            let (gate, up) = row.split_at(hidden);
            for ((out, g), u) in out.iter_mut().zip(gate).zip(up) {
                *out = (g * sigmoid::<F>(*g)) * u;
            }
        }
    }
}

/// Elements that [`swiglu_backward`] copies out together: three slices that may lie anywhere would not become vectors.
const TOGETHER: usize = 16;

/// Gradients of gate and up, and the product of both, of a few elements.
#[inline(always)]
fn swiglu_gradients<F: Fma>(gate: &mut [f32], up: &mut [f32], gradient: &mut [f32]) {
    let len = gate.len();
    let (mut g, mut u, mut dh) = ([0.0; TOGETHER], [0.0; TOGETHER], [0.0; TOGETHER]);
    g[..len].copy_from_slice(gate);
    u[..len].copy_from_slice(up);
    dh[..len].copy_from_slice(gradient);
    for i in 0..TOGETHER {
        let (x, y, d) = (g[i], u[i], dh[i]);
        let s = sigmoid::<F>(x);
        let silu = x * s;
        // d silu / d x = s + silu (1 - s)
        let slope = F::fma(silu, 1.0 - s, s);
        g[i] = (d * y) * slope;
        u[i] = d * silu;
        dh[i] = silu * y;
    }
    gate.copy_from_slice(&g[..len]);
    up.copy_from_slice(&u[..len]);
    gradient.copy_from_slice(&dh[..len]);
}

kernel! {
    /// Backward of [`swiglu`]: `gate_up` becomes its gradient, and `gradient` what [`swiglu`] gave.
    swiglu_backward<F>(gate_up: &mut [f32], hidden: usize, gradient: &mut [f32]) {
        for (row, gradient) in gate_up.chunks_exact_mut(2 * hidden).zip(gradient.chunks_exact_mut(hidden)) {
            let (gate, up) = row.split_at_mut(hidden);
            let mut gates = gate.chunks_exact_mut(TOGETHER);
            let mut ups = up.chunks_exact_mut(TOGETHER);
            let mut gradients = gradient.chunks_exact_mut(TOGETHER);
            for ((gate, up), gradient) in (&mut gates).zip(&mut ups).zip(&mut gradients) {
                swiglu_gradients::<F>(gate, up, gradient);
            }
            let (gate, up) = (gates.into_remainder(), ups.into_remainder());
            swiglu_gradients::<F>(gate, up, gradients.into_remainder());
        }
    }
}

kernel! {
    /// Cross entropy of a row of logits: returns the loss, and turns the row into its gradient times `weight`.
    cross_entropy<F>(row: &mut [f32], target: usize, weight: f32) -> f32 {
        let top = largest(row);
        let aim = row[target];
        for z in row.iter_mut() {
            *z = exp::<F>(*z - top);
        }
        let sum = fold(row, |x, lane| lane + x);
        let scale = (1.0 / sum) * weight;
        for p in row.iter_mut() {
            *p *= scale;
        }
        row[target] -= weight;
        (ln::<F>(sum) + top) - aim
    }
}

/// The largest of a row; a maximum has no order, except that NaN is passed over, which the exponentials then show.
#[inline(always)]
pub(crate) fn largest(row: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; 16];
    let mut chunks = row.chunks_exact(16);
    for chunk in &mut chunks {
        for (lane, x) in lanes.iter_mut().zip(chunk) {
            *lane = if *x > *lane { *x } else { *lane };
        }
    }
    for (lane, x) in lanes.iter_mut().zip(chunks.remainder()) {
        *lane = if *x > *lane { *x } else { *lane };
    }
    lanes
        .into_iter()
        .fold(f32::NEG_INFINITY, |top, x| if x > top { x } else { top })
}

kernel! {
    /// `out = a + b`.
    add<F>(a: &[f32], b: &[f32], out: &mut [f32]) {
        for ((out, a), b) in out.iter_mut().zip(a).zip(b) {
            *out = a + b;
        }
    }
}

kernel! {
    /// `values = values * factor`.
    scale<F>(values: &mut [f32], factor: f32) {
        for value in values {
            *value *= factor;
        }
    }
}

kernel! {
    /// Turns negative zeros into zero.
    settle_zeros<F>(values: &mut [f32]) {
        for value in values {
            *value += 0.0;
        }
    }
}

kernel! {
    /// `out = out + values`.
    add_to<F>(out: &mut [f32], values: &[f32]) {
        for (out, value) in out.iter_mut().zip(values) {
            *out += value;
        }
    }
}
