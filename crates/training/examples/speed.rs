//! How fast training is, for `cargo xtask bench training`, which asks PyTorch the same in turn.
//!
//! `--products` prints what the matrix product gives and what exactness costs, one JSON object a line: `{"name", "value",
//! "unit", "note"}`. `--serve NAME` (1M, 10M, 50M, lora, 1M Muon) says what the model is, then reads numbers of steps, and
//! answers each with the seconds that they took, by the clock and of the processor, and the peak at that moment. `--smoke`
//! takes the smallest size, `--threads N` other threads than one for each core.
//!
//! The peak is measured on the same threads: the best of several products of 768 by 768 by 768. A step counts as
//! 6 operations a parameter of a matrix and token, and attention's products over what a causal window has.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result};
use hearth_training::kernels::matmul::{Grid, Product, multiply, pack, packed_len};
use hearth_training::{
    AdamW, Adapter, AdapterLayout, Architecture, Layout, Muon, Optimizer, Path, RateSchedule, Role,
    Target, Trainer, Training, Weights,
};
use rustix::time::{ClockId, clock_gettime};
use serde_json::json;

/// A model that is measured, with its batch.
struct Case {
    name: &'static str,
    architecture: Architecture,
    tokens: usize,
    windows: usize,
    adapter: bool,
    muon: bool,
}

fn llama(
    vocabulary: usize,
    width: usize,
    layers: usize,
    heads: (usize, usize),
    hidden: usize,
) -> Architecture {
    Architecture {
        vocabulary,
        width,
        layers,
        query_heads: heads.0,
        key_value_heads: heads.1,
        head: width / heads.0,
        hidden,
        context: 1_024,
        rope_theta: 10_000.0,
        norm_epsilon: 1e-5,
        tied_head: true,
    }
}

fn cases() -> Vec<Case> {
    let case = |name, architecture, tokens, windows| Case {
        name,
        architecture,
        tokens,
        windows,
        adapter: false,
        muon: false,
    };
    let one = || case("1M", llama(256, 128, 5, (4, 2), 344), 256, 16);
    vec![
        one(),
        Case {
            name: "1M Muon",
            muon: true,
            ..one()
        },
        case("10M", llama(2_048, 320, 8, (5, 5), 864), 256, 8),
        case("50M", llama(8_192, 512, 14, (8, 4), 1_408), 512, 4),
        Case {
            adapter: true,
            ..case("lora", llama(49_152, 576, 30, (9, 3), 1_536), 256, 2)
        },
    ]
}

fn optimizer(muon: bool) -> Optimizer {
    let adam = AdamW {
        rate: RateSchedule::constant(1e-3),
        beta1: 0.9,
        beta2: 0.95,
        epsilon: 1e-8,
        decay: 0.1,
    };
    if !muon {
        return Optimizer::AdamW(adam);
    }
    Optimizer::Muon(Muon {
        rate: RateSchedule::constant(0.02),
        momentum: 0.95,
        decay: 0.1,
        rest: adam,
    })
}

fn print(name: &str, value: f64, unit: &str, note: &str) {
    println!(
        "{}",
        json!({ "name": name, "value": value, "unit": unit, "note": note })
    );
}

/// Returns the operations of a step on one token: products of all weights, and attention's over what each query sees.
fn operations_per_token(layout: &Layout, case: &Case) -> f64 {
    let tensors = layout.tensors().list().iter();
    let matrices = tensors.filter(|tensor| match tensor.role {
        Role::Matrix | Role::Head => true,
        Role::Embedding => case.architecture.tied_head,
        Role::Norm => false,
    });
    let weights: usize = matrices.map(|tensor| tensor.rows * tensor.columns).sum();
    let a = &case.architecture;
    let seen = (case.tokens + 1) as f64 / 2.0;
    let attention = 2.0 * 2.0 * seen * (a.query_heads * a.head * a.layers) as f64;
    // Over frozen weights only the gradients of activations are computed.
    let passes = if case.adapter { 2.0 } else { 3.0 };
    2.0 * passes * weights as f64 + 3.0 * attention
}

/// Returns the seconds that this process has computed, all threads together.
///
/// Other programs on the machine take wall time and no processor time, so that shares of the peak stay true beside them.
fn cpu_seconds() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// Multiplies two matrices of `size` on each thread, and returns operations per second of all together.
fn peak(path: Path, threads: usize, size: usize) -> f64 {
    let one = || {
        let a = vec![0.5f32; size * size];
        let mut right = vec![0.0; packed_len(path, size, size)];
        pack(path, Grid::rows(&a, size), size, size, 0, &mut right);
        let mut out = vec![0.0; size * size];
        let product = Product::new(Grid::rows(&a, size), &right, size, size, size);
        let times = (0..5).map(|_| {
            let started = Instant::now();
            multiply(path, &product, &mut out, size);
            black_box(&out);
            started.elapsed().as_secs_f64()
        });
        2.0 * (size as f64).powi(3) / times.fold(f64::INFINITY, f64::min)
    };
    std::thread::scope(|scope| {
        let all: Vec<_> = (0..threads).map(|_| scope.spawn(one)).collect();
        all.into_iter()
            .map(|thread| thread.join().expect("it multiplies"))
            .sum()
    })
}

/// Returns operations per second of processor time, on one thread.
fn peak_alone(path: Path, size: usize) -> f64 {
    let a = vec![0.5f32; size * size];
    let mut right = vec![0.0; packed_len(path, size, size)];
    pack(path, Grid::rows(&a, size), size, size, 0, &mut right);
    let mut out = vec![0.0; size * size];
    let product = Product::new(Grid::rows(&a, size), &right, size, size, size);
    let mut best = f64::INFINITY;
    for _ in 0..5 {
        let before = cpu_seconds();
        multiply(path, &product, &mut out, size);
        black_box(&out);
        best = best.min(cpu_seconds() - before);
    }
    2.0 * (size as f64).powi(3) / best
}

/// The same product where the order of additions is free: what exactness could cost.
#[cfg(target_arch = "x86_64")]
#[allow(
    unsafe_code,
    reason = "vector instructions, as in the kernel that this is compared with"
)]
mod free {
    use std::arch::x86_64::{
        _mm512_add_ps, _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_set1_ps, _mm512_setzero_ps,
        _mm512_storeu_ps,
    };
    use std::hint::black_box;

    use hearth_training::Path;
    use hearth_training::kernels::matmul::{Grid, Product, multiply, pack, packed_len};

    const ROWS: usize = 7;
    const COLUMNS: usize = 32;

    /// Rows of `ROWS` and panels of `COLUMNS`, each output in two accumulators: even and odd `k`.
    #[target_feature(enable = "avx512f")]
    fn multiply_freely(
        a: &[f32],
        right: &[f32],
        (m, n, k): (usize, usize, usize),
        out: &mut [f32],
    ) {
        assert!(m.is_multiple_of(ROWS) && n.is_multiple_of(COLUMNS) && k.is_multiple_of(2));
        assert!(a.len() == m * k && right.len() == n * k && out.len() == m * n);
        for i in (0..m).step_by(ROWS) {
            for j in (0..n).step_by(COLUMNS) {
                let mut sums = [[[_mm512_setzero_ps(); 2]; 2]; ROWS];
                for p in (0..k).step_by(2) {
                    for odd in 0..2 {
                        // SAFETY: all indexes are below the lengths asserted above.
                        unsafe {
                            let panel = right.as_ptr().add(j * k + (p + odd) * COLUMNS);
                            let b = [_mm512_loadu_ps(panel), _mm512_loadu_ps(panel.add(16))];
                            for (row, sums) in sums.iter_mut().enumerate() {
                                let x = _mm512_set1_ps(*a.as_ptr().add((i + row) * k + p + odd));
                                sums[odd][0] = _mm512_fmadd_ps(x, b[0], sums[odd][0]);
                                sums[odd][1] = _mm512_fmadd_ps(x, b[1], sums[odd][1]);
                            }
                        }
                    }
                }
                for (row, sums) in sums.iter().enumerate() {
                    // SAFETY: as above.
                    unsafe {
                        let place = out.as_mut_ptr().add((i + row) * n + j);
                        _mm512_storeu_ps(place, _mm512_add_ps(sums[0][0], sums[1][0]));
                        _mm512_storeu_ps(place.add(16), _mm512_add_ps(sums[0][1], sums[1][1]));
                    }
                }
            }
        }
    }

    fn seconds(mut work: impl FnMut()) -> f64 {
        let started = std::time::Instant::now();
        work();
        started.elapsed().as_secs_f64()
    }

    /// Prints how much longer the exact product takes, for sizes of the models above.
    pub(crate) fn compare(rounds: usize) {
        let path = Path::fastest();
        if path.name() != "avx512" {
            return;
        }
        for (m, n, k) in [
            (98, 256, 128),
            (98, 704, 128),
            (98, 128, 344),
            (98, 512, 1_408),
        ] {
            let a = vec![0.5f32; m * k];
            let mut right = vec![0.0; packed_len(path, k, n)];
            pack(path, Grid::rows(&vec![0.25; n * k], n), k, n, 0, &mut right);
            let (mut exact, mut free) = (f64::INFINITY, f64::INFINITY);
            let mut out = vec![0.0; m * n];
            for _ in 0..rounds * 40 {
                let product = Product::new(Grid::rows(&a, k), &right, m, n, k);
                exact = exact.min(seconds(|| multiply(path, &product, black_box(&mut out), n)));
                // SAFETY: the path says that the processor has the instructions.
                free = free.min(seconds(|| unsafe {
                    multiply_freely(&a, &right, (m, n, k), black_box(&mut out));
                }));
            }
            let note = format!(
                "{m} x {n} x {k}, against two accumulators an output, {}",
                path.name()
            );
            super::print("what exactness costs", exact / free - 1.0, "", &note);
        }
    }
}

fn start(case: &Case, threads: usize) -> Result<(Trainer, Vec<u32>)> {
    let layout = Arc::new(Layout::new(case.architecture)?);
    let training = Training {
        tokens: case.tokens,
        windows: case.windows,
        windows_together: case.windows,
        optimizer: optimizer(case.muon),
        clip_norm: 1.0,
        threads,
        path: Path::fastest(),
    };
    let weights = Weights::fresh(layout.tensors(), 1);
    let trainer = if case.adapter {
        let adapter = Adapter {
            rank: 8,
            alpha: 16.0,
            targets: Target::ALL.to_vec(),
        };
        let adapter = Arc::new(AdapterLayout::new(&layout, adapter)?);
        let own = Weights::fresh(adapter.tensors(), 2);
        Trainer::start_adapter(&layout, weights, (&adapter, own), training)?
    } else {
        Trainer::start(&layout, weights, training)?
    };
    let vocabulary = case.architecture.vocabulary as u32;
    let tokens = (0..(case.windows * (case.tokens + 1)) as u32)
        .map(|index| index.wrapping_mul(2_654_435_761) % vocabulary);
    Ok((trainer, tokens.collect()))
}

/// Answers each line, a number of steps, with a line.
fn serve(case: &Case, threads: usize) -> Result<()> {
    let (mut trainer, batch) = start(case, threads)?;
    trainer.step(&batch)?;
    let layout = Layout::new(case.architecture)?;
    let hello = json!({
        "parameters": layout.tensors().len(),
        "step_tokens": case.tokens * case.windows,
        "token_operations": operations_per_token(&layout, case),
        "what": format!(
            "{:.1}M parameters, {} windows of {} tokens, {threads} threads, {}",
            layout.tensors().len() as f64 / 1e6,
            case.windows,
            case.tokens,
            Path::fastest().name()
        ),
    });
    println!("{hello}");
    for line in std::io::stdin().lines() {
        let steps: usize = line?.trim().parse().context("a number of steps")?;
        let (started, computed) = (Instant::now(), cpu_seconds());
        for _ in 0..steps {
            trainer.step(&batch)?;
        }
        let (clock_s, computed_s) = (started.elapsed().as_secs_f64(), cpu_seconds() - computed);
        let said = json!({
            "clock_s": clock_s,
            "computed_s": computed_s,
            "peak": peak(Path::fastest(), threads, 768),
            "peak_alone": peak_alone(Path::fastest(), 768),
        });
        println!("{said}");
    }
    Ok(())
}

fn products(smoke: bool, threads: usize) {
    for path in Path::available() {
        // The scalar path is here for its bits: a large product would take most of the benchmark.
        let small = smoke || path == Path::available()[0];
        let peak = peak(path, threads, if small { 96 } else { 768 });
        let note = format!("{}, {threads} threads", path.name());
        print("matrix product", peak / 1e9, "Gop/s", &note);
    }
    #[cfg(target_arch = "x86_64")]
    free::compare(if smoke { 1 } else { 5 });
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().collect();
    let has = |name: &str| arguments.iter().any(|argument| argument == name);
    let value = |name: &str| {
        let at = arguments.iter().position(|argument| argument == name)?;
        arguments.get(at + 1).cloned()
    };
    let threads = match value("--threads") {
        Some(threads) => threads.parse().context("--threads is a number")?,
        None => std::thread::available_parallelism()?.get(),
    };
    if has("--products") {
        products(has("--smoke"), threads);
    }
    if let Some(name) = value("--serve") {
        let case = cases().into_iter().find(|case| case.name == name);
        serve(&case.context("there is no such model")?, threads)?;
    }
    Ok(())
}
