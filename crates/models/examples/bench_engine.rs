//! What the engine costs beside llama.cpp: output tokens per second, time to first token, reuse.
//!
//! Prints one JSON object a line, `{"name", "value", "unit", "note"}`. `HEARTH_TEST_MODEL` names
//! the model file. The engine and a bare loop over the same bindings run in a process each, one
//! after the other in every round, so that they meet the same machine; figures are medians of the
//! rounds. `--smoke` does the same in its smallest size.
//!
//! The bare loop is what anyone would write first: read all prompts, then decode one batch a step
//! with a token of each stream, and pick the token by llama.cpp's own samplers.

use std::io::{BufRead, BufReader, Write};
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::thread::available_parallelism;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use hearth_models::engine::{Engine, EngineOptions, Event, Generation, Job};
use hearth_models::reader::{self, Launcher};
use hearth_models::reading;
use hearth_models::sampling::{NoiseKey, Rule, Sampler};
use llama_cpp_2::context::LlamaContext;
use llama_cpp_2::context::params::LlamaContextParams;
use llama_cpp_2::llama_backend::LlamaBackend;
use llama_cpp_2::llama_batch::LlamaBatch;
use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::model::params::LlamaModelParams;
use llama_cpp_2::sampling::LlamaSampler;
use llama_cpp_2::token::LlamaToken;
use llama_cpp_2::{LogOptions, send_logs_to_tracing};
use serde_json::{Value, json};

/// Tokens of each prompt.
const PROMPT_TOKENS: usize = 60;
/// Tokens of the prompt that is asked twice.
const LONG_PROMPT_TOKENS: usize = 1_000;
/// Cells of either context.
const CELLS: u32 = 16_384;
/// Tokens that are computed together; the bare loop puts all prompts into one batch.
const MICRO_BATCH: u32 = 512;
const BARE_BATCH: u32 = 2_048;

/// How much is measured.
struct Size {
    rounds: u64,
    tokens: u32,
    draws: u64,
}

fn main() -> Result<()> {
    if reader::is_reader() {
        reading::serve();
        return Ok(());
    }
    let arguments: Vec<String> = std::env::args().collect();
    let has = |name: &str| arguments.iter().any(|argument| argument == name);
    let path = std::env::var_os("HEARTH_TEST_MODEL");
    let path = PathBuf::from(path.context("HEARTH_TEST_MODEL does not name a model file")?);
    if has("--engine") {
        return serve(&mut HearthSide::load(&path)?);
    }
    if has("--bare") {
        return serve_bare(&path);
    }
    let size = if has("--smoke") {
        Size {
            rounds: 1,
            tokens: 4,
            draws: 4,
        }
    } else {
        Size {
            rounds: 7,
            tokens: 64,
            draws: 300,
        }
    };
    draws(&size);
    measure(&size)
}

fn print(name: &str, value: f64, unit: &str, note: &str) {
    println!(
        "{}",
        json!({ "name": name, "value": value, "unit": unit, "note": note })
    );
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// What choosing one token costs, on logits as flat as a model's.
fn draws(size: &Size) {
    let noise = |v: u32| {
        let mixed = u64::from(v).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
        (mixed as f32 / 16_777_216.0 + 1e-9).ln() * -3.0
    };
    let logits: Vec<f32> = (0..49_152).map(noise).collect();
    let million = 1_000_000;
    for (name, temperature, top_k, top_p) in [
        ("greedy", 0, 0, million),
        ("T 1", million, 0, million),
        ("T 1, top-p 0.95", million, 0, 950_000),
        ("T 0.7, top-k 40, top-p 0.9", 700_000, 40, 900_000),
    ] {
        let rule = Rule {
            temperature_millionths: temperature,
            top_k,
            top_p_millionths: top_p,
            ..Rule::default()
        };
        let mut sampler = Sampler::new(rule, NoiseKey([1; 32])).expect("the rule is sound");
        let times = (0..size.draws).map(|position| {
            let started = Instant::now();
            std::hint::black_box(sampler.choose(position, std::hint::black_box(&logits), None));
            started.elapsed().as_secs_f64() * 1e3
        });
        let note = format!("{name}; 49,152 logits, one thread");
        print("choosing a token", median(times.collect()), "ms", &note);
    }
}

fn measure(size: &Size) -> Result<()> {
    let mut engine = Side::start("--engine")?;
    let mut bare = Side::start("--bare")?;
    for (streams, sampler) in [
        (1, "greedy"),
        (1, "temperature"),
        (8, "greedy"),
        (8, "temperature"),
    ] {
        let (mut ratios, mut speeds, mut delays) = (Vec::new(), Vec::new(), Vec::new());
        for round in 0..size.rounds {
            let task = json!({"streams": streams, "tokens": size.tokens, "sampler": sampler,
                              "round": round});
            // Who goes first changes, so that neither always meets a warmer machine.
            let (ours, theirs) = if round % 2 == 0 {
                let ours = engine.run(&task)?;
                (ours, bare.run(&task)?)
            } else {
                let theirs = bare.run(&task)?;
                (engine.run(&task)?, theirs)
            };
            ratios.push(ours.tokens_per_s / theirs.tokens_per_s);
            speeds.push(ours.tokens_per_s);
            delays.push(ours.first_ms - theirs.first_ms);
        }
        let note = format!("{streams} streams, {sampler}");
        print("output against llama.cpp", median(ratios), "ratio", &note);
        print("output", median(speeds), "tokens/s", &note);
        print("first token after llama.cpp's", median(delays), "ms", &note);
    }
    let mut shares = Vec::new();
    for round in 0..size.rounds.min(3) {
        let task = json!({"long": true, "round": round});
        let (cold, warm) = (engine.run(&task)?, engine.run(&task)?);
        shares.push(warm.first_ms / cold.first_ms);
    }
    let note =
        format!("first token of {LONG_PROMPT_TOKENS} tokens asked again, against the first time");
    print("prefix reuse", median(shares), "ratio", &note);
    Ok(())
}

/// What one run of one side gave.
struct Figures {
    tokens_per_s: f64,
    first_ms: f64,
}

/// A process that answers one line with one line.
struct Side {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Side {
    fn start(side: &str) -> Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg(side)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let input = child.stdin.take().context("a child has an input")?;
        let output = child.stdout.take().context("a child has an output")?;
        Ok(Self {
            child,
            input,
            output: BufReader::new(output),
        })
    }

    fn run(&mut self, task: &Value) -> Result<Figures> {
        writeln!(self.input, "{task}")?;
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        let answer: Value = serde_json::from_str(&line).context("a side gave no figures")?;
        let figure = |name: &str| answer[name].as_f64().context("a figure is missing");
        Ok(Figures {
            tokens_per_s: figure("tokens_per_s")?,
            first_ms: figure("first_ms")?,
        })
    }
}

impl Drop for Side {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One side of the comparison.
trait Run {
    /// Runs a task, and gives the tokens that came, the seconds, and those to the first token.
    fn run(&mut self, task: &Value) -> Result<(u32, f64, f64)>;
}

fn serve(side: &mut dyn Run) -> Result<()> {
    for line in std::io::stdin().lines() {
        let task = serde_json::from_str(&line?)?;
        let (tokens, seconds, first_s) = side.run(&task)?;
        let speed = f64::from(tokens) / seconds;
        println!(
            "{}",
            json!({"tokens_per_s": speed, "first_ms": first_s * 1e3})
        );
    }
    Ok(())
}

/// Ids that no other stream and no other round has.
fn prompt(length: usize, stream: u64, round: u64) -> Vec<u32> {
    let id = |index: u64| 100 + ((index * 31 + stream * 977 + round * 7_919) % 20_000) as u32;
    (0..length as u64).map(id).collect()
}

struct HearthSide {
    engine: Engine,
    runtime: tokio::runtime::Runtime,
}

impl HearthSide {
    fn load(path: &Path) -> Result<Self> {
        let options = EngineOptions {
            threads: available_parallelism()?.get() as u32,
            context_tokens: CELLS / 8,
            sequences_max: 8,
            micro_batch_tokens: MICRO_BATCH,
            ..EngineOptions::default()
        };
        Ok(Self {
            engine: Engine::load(path, options, &Launcher::this_program(["--reader"])?)?,
            runtime: tokio::runtime::Builder::new_current_thread().build()?,
        })
    }
}

impl Run for HearthSide {
    fn run(&mut self, task: &Value) -> Result<(u32, f64, f64)> {
        let long = task["long"] == true;
        let number = |name: &str, default| task[name].as_u64().unwrap_or(default);
        let (streams, round) = (number("streams", 1), number("round", 0));
        let length = if long {
            LONG_PROMPT_TOKENS
        } else {
            PROMPT_TOKENS
        };
        let greedy = task["sampler"] == "greedy";
        let engine = self.engine.clone();
        self.runtime.block_on(async {
            let started = Instant::now();
            let mut running = tokio::task::JoinSet::new();
            for stream in 0..streams {
                let job = Job {
                    ids: prompt(length, stream, round),
                    output_position_first: 0,
                    output_tokens_max: number("tokens", 1) as u32,
                    rule: Rule {
                        temperature_millionths: if greedy { 0 } else { 1_000_000 },
                        ..Rule::default()
                    },
                    noise_key: NoiseKey([stream as u8; 32]),
                    grammar: None,
                    logprobs: None,
                    asker: hearth_models::asker::Asker::Household { name: stream },
                    allowance: u32::MAX,
                };
                running.spawn(listen(engine.submit(job).await?, started));
            }
            let (mut tokens, mut first_s) = (0, f64::INFINITY);
            while let Some(done) = running.join_next().await {
                let (count, first) = done?;
                tokens += count;
                first_s = first.min(first_s);
            }
            Ok((tokens, started.elapsed().as_secs_f64(), first_s))
        })
    }
}

async fn listen(mut generation: Generation, started: Instant) -> (u32, f64) {
    let (mut tokens, mut first_s) = (0, f64::INFINITY);
    while let Some(event) = generation.next().await {
        if let Event::Token { .. } = event {
            tokens += 1;
            first_s = first_s.min(started.elapsed().as_secs_f64());
        }
    }
    (tokens, first_s)
}

struct BareSide<'model> {
    model: &'model LlamaModel,
    context: LlamaContext<'model>,
    batch: LlamaBatch<'static>,
}

fn serve_bare(path: &Path) -> Result<()> {
    send_logs_to_tracing(LogOptions::default().with_logs_enabled(false));
    let backend = LlamaBackend::init()?;
    let model = LlamaModel::load_from_file(&backend, path, &LlamaModelParams::default())?;
    let threads = available_parallelism()?.get() as i32;
    let params = LlamaContextParams::default()
        .with_n_ctx(NonZeroU32::new(CELLS))
        .with_n_batch(BARE_BATCH)
        .with_n_ubatch(MICRO_BATCH)
        .with_n_seq_max(8)
        .with_n_threads(threads)
        .with_n_threads_batch(threads)
        .with_kv_unified(true)
        .with_flash_attention_policy(0);
    let context = model.new_context(&backend, params)?;
    serve(&mut BareSide {
        model: &model,
        context,
        batch: LlamaBatch::new(BARE_BATCH as usize, 8),
    })
}

impl Run for BareSide<'_> {
    fn run(&mut self, task: &Value) -> Result<(u32, f64, f64)> {
        let number = |name: &str| task[name].as_u64().context("a figure is missing");
        let (streams, round) = (number("streams")?, number("round")?);
        let most = number("tokens")? as u32;
        let length = number("prompt_tokens").map_or(PROMPT_TOKENS, |tokens| tokens as usize);
        let chain = |stream: u64| {
            if task["sampler"] == "greedy" {
                LlamaSampler::greedy()
            } else {
                let parts = [LlamaSampler::temp(1.0), LlamaSampler::dist(stream as u32)];
                LlamaSampler::chain_simple(parts)
            }
        };
        let mut samplers: Vec<LlamaSampler> = (0..streams).map(chain).collect();
        self.context.clear_kv_cache();
        let started = Instant::now();
        self.batch.clear();
        for stream in 0..streams {
            for (position, id) in prompt(length, stream, round).into_iter().enumerate() {
                let last = position + 1 == length;
                let token = LlamaToken(id as i32);
                self.batch
                    .add(token, position as i32, &[stream as i32], last)?;
            }
        }
        self.context.decode(&mut self.batch)?;
        let mut rows: Vec<(usize, i32)> = (0..streams as usize)
            .map(|stream| (stream, ((stream + 1) * length - 1) as i32))
            .collect();
        let (mut tokens, mut first_s) = (0, 0.0);
        for step in 0..most {
            let mut next = Vec::new();
            for (stream, row) in rows {
                let token = samplers[stream].sample(&self.context, row);
                tokens += 1;
                if !self.model.vocab().is_eog(token) {
                    next.push((stream, token));
                }
            }
            if step == 0 {
                first_s = started.elapsed().as_secs_f64();
            }
            if next.is_empty() || step + 1 == most {
                break;
            }
            self.batch.clear();
            rows = Vec::new();
            for (row, (stream, token)) in next.into_iter().enumerate() {
                let position = (length + step as usize) as i32;
                self.batch.add(token, position, &[stream as i32], true)?;
                rows.push((stream, row as i32));
            }
            self.context.decode(&mut self.batch)?;
        }
        if tokens == 0 {
            bail!("the bare loop wrote nothing");
        }
        Ok((tokens, started.elapsed().as_secs_f64(), first_s))
    }
}
