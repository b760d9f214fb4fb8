//! Rotary positions (Su and others, arXiv 2104.09864): cosines and sines of every position, from doubles.
//!
//! Only additions, multiplications and divisions of doubles in a stated order, so that the tables are the same everywhere
//! (spec: training numerics, section 5.3).

use std::f64::consts::{LN_2, PI};

/// Cosines and sines, `half` for each position.
pub(crate) struct Rope {
    half: usize,
    cosines: Vec<f32>,
    sines: Vec<f32>,
}

/// e^x by a series of 22 terms after halving x 2^10 times.
fn exp(x: f64) -> f64 {
    let small = x / 1024.0;
    let mut sum = 1.0;
    for n in (1..=22u32).rev() {
        sum = 1.0 + sum * small / f64::from(n);
    }
    for _ in 0..10 {
        sum *= sum;
    }
    sum
}

/// ln x for x of 1 and more, by halving and the series of 2 artanh((x - 1) / (x + 1)).
fn ln(x: f64) -> f64 {
    let (mut rest, mut halvings) = (x, 0.0);
    while rest > 1.5 {
        rest /= 2.0;
        halvings += 1.0;
    }
    let y = (rest - 1.0) / (rest + 1.0);
    let square = y * y;
    let mut sum = 0.0;
    for n in (0..30u32).rev() {
        sum = sum * square + 1.0 / f64::from(2 * n + 1);
    }
    halvings * LN_2 + 2.0 * y * sum
}

/// Cosine and sine of a positive angle, by their series after whole and quarter turns.
fn turn(angle: f64) -> (f64, f64) {
    let quarters = (angle / (PI / 2.0) + 0.5).floor();
    // The two parts of a quarter turn; the first has few enough bits for exact products.
    let high = f64::from_bits(0x3ff9_21fb_5000_0000);
    let low = f64::from_bits(0x3e51_10b4_611a_6263);
    let r = (angle - quarters * high) - quarters * low;
    let square = r * r;
    let (mut c, mut s) = (1.0, 1.0);
    for n in (1..=10u32).rev() {
        let n = f64::from(2 * n);
        c = 1.0 - c * square / (n * (n - 1.0));
        s = 1.0 - s * square / (n * (n + 1.0));
    }
    let s = s * r;
    match quarters as u64 % 4 {
        0 => (c, s),
        1 => (-s, c),
        2 => (-c, -s),
        _ => (s, -c),
    }
}

impl Rope {
    pub(crate) fn new(tokens: usize, head: usize, theta: f32) -> Self {
        let half = head / 2;
        let log = ln(f64::from(theta));
        let mut rope = Self {
            half,
            cosines: Vec::with_capacity(tokens * half),
            sines: Vec::with_capacity(tokens * half),
        };
        let frequencies: Vec<f64> = (0..half)
            .map(|i| exp(-(log * (2.0 * i as f64) / head as f64)))
            .collect();
        for position in 0..tokens {
            for frequency in &frequencies {
                let (cosine, sine) = turn(position as f64 * frequency);
                rope.cosines.push(cosine as f32);
                rope.sines.push(sine as f32);
            }
        }
        rope
    }

    /// Returns the cosines and sines of a position.
    pub(crate) fn at(&self, position: usize) -> (&[f32], &[f32]) {
        let range = position * self.half..(position + 1) * self.half;
        (&self.cosines[range.clone()], &self.sines[range])
    }

    /// Returns how many floats the tables hold.
    pub(crate) fn floats(tokens: usize, head: usize) -> usize {
        tokens * head
    }
}

#[cfg(test)]
mod tests {
    use super::Rope;

    #[test]
    fn tables_are_those_of_the_mathematics() {
        let (tokens, head, theta) = (3_000, 64, 10_000.0f32);
        let rope = Rope::new(tokens, head, theta);
        for position in [0, 1, 2, 777, 2_999] {
            let (cosines, sines) = rope.at(position);
            for i in 0..head / 2 {
                let frequency = f64::from(theta).powf(-2.0 * i as f64 / head as f64);
                let angle = position as f64 * frequency;
                assert!(
                    (f64::from(cosines[i]) - angle.cos()).abs() < 1e-7,
                    "{position} {i}"
                );
                assert!(
                    (f64::from(sines[i]) - angle.sin()).abs() < 1e-7,
                    "{position} {i}"
                );
            }
        }
    }
}
