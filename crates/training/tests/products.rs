//! Every product is the chain of the specification (training numerics, 12.5.1), on every path and at every size.

use hearth_training::Path;
use hearth_training::kernels::matmul::{Grid, Product, multiply, pack, packed_len, panel_columns};
use proptest::prelude::*;

/// The specification's words: a chain for each output.
fn by_the_words(left: &[f32], right: &[f32], (m, n, k): (usize, usize, usize), out: &mut [f32]) {
    for i in 0..m {
        for j in 0..n {
            for p in 0..k {
                let c = &mut out[i * n + j];
                *c = left[i * k + p].mul_add(right[p * n + j], *c);
            }
        }
    }
}

fn transposed(values: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    (0..columns)
        .flat_map(|column| (0..rows).map(move |row| values[row * columns + column]))
        .collect()
}

/// Numbers of all sizes, some of them subnormal.
fn noise(seed: u64, count: usize) -> Vec<f32> {
    let mut state = seed | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    (0..count)
        .map(|_| {
            let word = next();
            let exponent = match word % 16 {
                0 => 0,
                1 => 60 + (word >> 8) as u32 % 8,
                _ => 122 + (word >> 8) as u32 % 8,
            };
            f32::from_bits((word >> 32) as u32 & 0x807f_ffff | exponent << 23)
        })
        .collect()
}

fn assert_same(ours: &[f32], theirs: &[f32], how: &str) {
    for (index, (a, b)) in ours.iter().zip(theirs).enumerate() {
        assert_eq!(
            a.to_bits(),
            b.to_bits(),
            "{how}: element {index} is {a:e}, not {b:e}"
        );
    }
}

fn check((m, n, k): (usize, usize, usize), seed: u64) {
    let (left, right) = (noise(seed, m * k), noise(seed + 1, k * n));
    let start = noise(seed + 2, m * n);
    let mut wanted = vec![0.0; m * n];
    by_the_words(&left, &right, (m, n, k), &mut wanted);
    let mut wanted_on = start.clone();
    by_the_words(&left, &right, (m, n, k), &mut wanted_on);
    let (left_columns, right_columns) = (transposed(&left, m, k), transposed(&right, k, n));
    for path in Path::available() {
        let lefts = [Grid::rows(&left, k), Grid::transposed(&left_columns, m)];
        let rights = [Grid::rows(&right, n), Grid::transposed(&right_columns, k)];
        for (l, left) in lefts.into_iter().enumerate() {
            for (r, right) in rights.into_iter().enumerate() {
                let how = format!("{m} x {n} x {k}, {}, {l}{r}, seed {seed}", path.name());
                let mut packed = vec![f32::NAN; packed_len(path, k, n)];
                pack(path, right, k, n, 0, &mut packed);
                let product = Product::new(left, &packed, m, n, k);
                let mut out = vec![f32::NAN; m * n];
                multiply(path, &product, &mut out, n);
                assert_same(&out, &wanted, &how);
                let mut out = start.clone();
                multiply(path, &product.going_on(), &mut out, n);
                assert_same(&out, &wanted_on, &how);
            }
        }
    }
}

#[test]
fn sizes_around_tiles_and_blocks() {
    for (index, size) in [
        (1, 1, 1),
        (1, 33, 1),
        (15, 1, 2),
        (14, 32, 256),
        (13, 31, 257),
        (29, 65, 513),
        (7, 530, 3),
        (100, 17, 5),
    ]
    .into_iter()
    .enumerate()
    {
        check(size, 1_000 + index as u64);
    }
}

#[test]
fn neighbors_of_the_output_are_left_alone() {
    for path in Path::available() {
        let (m, n, k, row) = (5, 19, 3, 40);
        let (left, right) = (noise(1, m * k), noise(2, k * n));
        let mut packed = vec![0.0; packed_len(path, k, n)];
        pack(path, Grid::rows(&right, n), k, n, 0, &mut packed);
        let mut out = vec![7.0; m * row];
        multiply(
            path,
            &Product::new(Grid::rows(&left, k), &packed, m, n, k),
            &mut out,
            row,
        );
        assert!(
            out.chunks(row)
                .all(|line| line[n..].iter().all(|x| *x == 7.0))
        );
    }
}

#[test]
fn panels_packed_apart_are_those_packed_together() {
    for path in Path::available() {
        let (n, k) = (3 * panel_columns(path) + 5, 9);
        let right = noise(3, k * n);
        let mut whole = vec![0.0; packed_len(path, k, n)];
        pack(path, Grid::rows(&right, n), k, n, 0, &mut whole);
        let mut parts = vec![0.0; whole.len()];
        let each = k * panel_columns(path);
        for (index, part) in parts.chunks_mut(each).enumerate() {
            pack(
                path,
                Grid::rows(&right, n),
                k,
                n,
                index * panel_columns(path),
                part,
            );
        }
        assert_eq!(whole, parts);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]
    #[test]
    fn any_size(m in 1usize..40, n in 1usize..70, k in 1usize..300, seed: u32) {
        check((m, n, k), u64::from(seed));
    }
}
