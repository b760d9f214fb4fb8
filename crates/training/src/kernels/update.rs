//! One step of an optimizer on a stretch of weights (spec: training numerics, section 7).

use crate::kernels::dispatch::kernel;

/// What a step of AdamW does to every element; computed once a step.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AdamFactors {
    /// What a gradient is multiplied by when the global norm is clipped.
    pub(crate) clip: f32,
    pub(crate) beta1: f32,
    pub(crate) beta2: f32,
    /// `1 - beta`, rounded from double.
    pub(crate) fresh1: f32,
    pub(crate) fresh2: f32,
    /// `1 - rate * decay`.
    pub(crate) keep: f32,
    /// `rate / (1 - beta1^t)`.
    pub(crate) step: f32,
    /// `1 / sqrt(1 - beta2^t)`.
    pub(crate) unbias: f32,
    pub(crate) epsilon: f32,
}

kernel! {
    /// AdamW (Loshchilov and Hutter, arXiv 1711.05101) on `weights`, with its two moments.
    adamw<F>(
        weights: &mut [f32],
        gradient: &[f32],
        mean: &mut [f32],
        square: &mut [f32],
        k: AdamFactors,
    ) {
        for (((w, g), m), v) in weights.iter_mut().zip(gradient).zip(mean).zip(square) {
            let g = g * k.clip;
            *m = F::fma(k.beta1, *m, k.fresh1 * g);
            *v = F::fma(k.beta2, *v, (k.fresh2 * g) * g);
            let below = F::fma(v.sqrt(), k.unbias, k.epsilon);
            *w = F::fma(-k.step, *m / below, *w * k.keep);
        }
    }
}

kernel! {
    /// Momentum of Muon: `velocity = beta velocity + (1 - beta) g`; `out = (1 - beta) g + beta velocity` (Nesterov).
    momentum<F>(gradient: &[f32], velocity: &mut [f32], out: &mut [f32], clip: f32, beta: f32, fresh: f32) {
        for ((g, v), out) in gradient.iter().zip(velocity).zip(out) {
            let g = fresh * (g * clip);
            *v = F::fma(beta, *v, g);
            *out = F::fma(beta, *v, g);
        }
    }
}

kernel! {
    /// `out = b x + c y`, the second product fused.
    combine<F>(x: &[f32], y: &[f32], b: f32, c: f32, out: &mut [f32]) {
        for ((out, x), y) in out.iter_mut().zip(x).zip(y) {
            *out = F::fma(c, *y, b * x);
        }
    }
}

kernel! {
    /// `weights = weights * keep - step * direction`, the second product fused.
    descend<F>(weights: &mut [f32], direction: &[f32], keep: f32, step: f32) {
        for (w, d) in weights.iter_mut().zip(direction) {
            *w = F::fma(-step, *d, *w * keep);
        }
    }
}
