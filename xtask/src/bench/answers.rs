//! The benchmark `answers`: what Hearth costs beside llama.cpp, with whole programs.
//!
//! Four sides generate as many tokens of the same model on all cores of this machine, in turn, round after round:
//! llama.cpp as a bare loop in a process of its own (`bench_engine --bare`), llama.cpp's HTTP server, a Hearth device
//! that is asked at its own address, and a Hearth device without a model that buys from the other one, by the token,
//! over the peer-to-peer link and on a chain. Whoever is not asked waits. A figure is the median over the rounds of the
//! ratio, or difference, within a round, with the quartiles beside it; who begins a round changes, and so does the
//! direction in which turns go. Hearth and the server run as their users run them; the bare loop waits for its threads
//! as Hearth does.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::bare::{Bare, Pace};
use super::{Figure, figure, quartiles};
use crate::households::{Heard, Household, MODEL, Program, Up, ask_openai, question};
use crate::{model, python, workspace};

/// Answers at the same time at most.
const STREAMS_MAX: usize = 8;
/// Tokens of each answer.
const TOKENS: u64 = 96;
/// The longest prompt and answer together.
const CONTEXT_TOKENS: &str = "512";
/// Answers at the same time, rounds that count, and the least ratio of output to a peer's that we mean to reach. One
/// answer takes little time, and another tenant of the machine disturbs it more: it gets more rounds.
const SIZES: [(usize, u64, f64); 2] = [(1, 25, 0.97), (STREAMS_MAX, 7, 0.95)];
/// What the seller asks for a million tokens of prompts and of answers.
const PRICES: (&str, &str) = ("20", "60");
/// What the buyer has, in whole tokens.
const FUNDS: &str = "1000";

/// What one side did in one round.
#[derive(Debug, Clone, Copy)]
struct Run {
    pace: Pace,
    /// Of the processor's time, by all processes that took part but the one that asks.
    cpu_ms_per_token: f64,
}

/// Someone who generates.
struct Side {
    name: &'static str,
    asked: Asked,
    /// The processes that take part.
    processes: Vec<u32>,
}

/// How a side is asked.
enum Asked {
    Bare(Bare),
    /// Where it is asked, and what is only said to this one.
    Server(String, Value),
}

impl Side {
    fn run(&mut self, streams: usize, tokens: u64, round: u64) -> Result<Run> {
        let before = cpu_ms(&self.processes)?;
        let pace = self.ask(streams, tokens, round)?;
        let spent_ms = cpu_ms(&self.processes)? - before;
        Ok(Run {
            pace,
            cpu_ms_per_token: spent_ms / (streams as u64 * tokens) as f64,
        })
    }

    fn ask(&mut self, streams: usize, tokens: u64, round: u64) -> Result<Pace> {
        match &mut self.asked {
            Asked::Bare(bare) => bare.run(streams, tokens, round),
            Asked::Server(url, extra) => {
                let asks = (0..streams).map(|stream| {
                    let mut question = question(&prompt(round, stream), tokens);
                    merge(&mut question, extra);
                    question
                });
                ask_together(url, asks.collect())
            }
        }
    }
}

/// Runs the benchmark.
pub(super) fn run(smoke: bool) -> Result<Vec<Figure>> {
    let root = workspace::root()?;
    let folder = std::env::temp_dir().join(format!("hearth-answers-{}", std::process::id()));
    fs::create_dir_all(&folder)?;
    let figures = World::open(&root, &folder).and_then(|world| world.measure(smoke));
    fs::remove_dir_all(&folder)?;
    figures
}

/// The sides, and what keeps them running.
struct World {
    sides: Vec<Side>,
    buyer: Up,
    _seller: Up,
    _chain: Program,
    _server: Program,
}

impl World {
    fn open(root: &Path, folder: &Path) -> Result<Self> {
        let hearth = workspace::build_one(root, "--bin", "hearth")?;
        let bare = workspace::build_one(root, "--example", "bench_engine")?;
        let file = model::fetch(root)?;
        let threads = thread::available_parallelism()?.to_string();
        let python = python::install(&root.join("xtask/peers/requirements.txt"))?;
        let mut server = Command::new(python.join("bin/python"));
        for name in model::WAITING {
            server.env_remove(name);
        }
        server
            .arg(root.join("xtask/peers/llama_server.py"))
            .arg(&file)
            .args([&threads, &STREAMS_MAX.to_string(), CONTEXT_TOKENS])
            // It waits for its end there.
            .stdin(Stdio::piped())
            .stderr(Stdio::null());
        let (server, ready) = Program::start("llama.cpp's server", &mut server)?;
        let server_url = ready["url"].as_str().context("a server has an address")?;

        let named = |name: &str| Household::new(&hearth, folder.join(name));
        let (owner, seller, buyer) = (named("chain"), named("seller"), named("buyer"));
        seller.new_wallet()?;
        let (chain, url) = owner.run_chain(&buyer.new_wallet()?, FUNDS)?;
        let answers = format!("answers = {STREAMS_MAX}");
        let context = format!("context_tokens = {CONTEXT_TOKENS}");
        let size = [
            ("answers = 4", &*answers),
            ("context_tokens = 8192", &*context),
        ];
        for household in [&seller, &buyer] {
            household.configure(&url, &size)?;
        }
        seller.serve_model(&file, MODEL, "TESTUSD", PRICES)?;
        let seller = Up::start("the seller", seller, &[], &[])?;
        let buyer = Up::start("the buyer", buyer, &[&seller.ticket], &[])?;
        buyer.wait_for_offers(1)?;
        let one = ask_openai(&seller.url, &question(&prompt(2_000, 0), 1), |_| Ok(()))?;
        let bare = Bare::start(&bare, &file, one.prompt_tokens, Some(model::SPINS))?;
        let bare_id = bare.id();
        let (seller_id, buyer_id) = (seller.program.id(), buyer.program.id());
        let side = |name, asked, processes| Side {
            name,
            asked,
            processes,
        };
        let alike = json!({"top_k": 0, "min_p": 0, "cache_prompt": false});
        let server_asked = Asked::Server(server_url.to_owned(), alike);
        let sides = vec![
            side("llama.cpp, bare loop", Asked::Bare(bare), vec![bare_id]),
            side("llama.cpp's server", server_asked, vec![server.id()]),
            side(
                "Hearth, asked at home",
                Asked::Server(seller.url.clone(), json!({})),
                vec![seller_id],
            ),
            side(
                "Hearth, paid over the network",
                Asked::Server(buyer.url.clone(), json!({})),
                vec![seller_id, buyer_id],
            ),
        ];
        Ok(Self {
            sides,
            buyer,
            _seller: seller,
            _chain: chain,
            _server: server,
        })
    }

    fn measure(mut self, smoke: bool) -> Result<Vec<Figure>> {
        let mut figures = Vec::new();
        for (streams, rounds, target) in SIZES {
            let (rounds, tokens) = if smoke { (1, 8) } else { (rounds, TOKENS) };
            // Nothing counts before everybody is warm: files in memory, a channel open.
            self.round(streams, 8, 1_000)?;
            let runs = (0..rounds).map(|round| self.round(streams, tokens, round));
            let runs = runs.collect::<Result<Vec<_>>>()?;
            let names: Vec<_> = self.sides.iter().map(|side| side.name).collect();
            let asked = format!("{streams} at a time, {tokens} tokens each, temperature 1");
            figures.extend(compare(&names, &asked, target, &runs));
        }
        let bought = self.buyer.household.ask(&["earnings"])?;
        let answers = bought["bought"].as_array().map_or(0, Vec::len);
        ensure!(answers > 0, "the buyer's books name no answer that it paid");
        Ok(figures)
    }

    /// Everybody in turn. In each pair of rounds another one begins, and the second of a pair goes the other way.
    fn round(&mut self, streams: usize, tokens: u64, round: u64) -> Result<Vec<Run>> {
        let count = self.sides.len();
        let mut runs = vec![None; count];
        for turn in 0..count {
            let (pair, second) = (round as usize / 2, round % 2 == 1);
            let steps = if second { count - turn } else { turn };
            let index = (pair + steps) % count;
            let side = &mut self.sides[index];
            let run = side.run(streams, tokens, round);
            runs[index] = Some(run.with_context(|| format!("{} failed", side.name))?);
        }
        Ok(runs.into_iter().flatten().collect())
    }
}

/// The figures of some rounds, in the order of [`World::sides`].
fn compare(names: &[&str], asked: &str, target: f64, rounds: &[Vec<Run>]) -> Vec<Figure> {
    let each = |name: &str, unit: &str, note: &str, value: &dyn Fn(&[Run]) -> f64| {
        let [low, middle, high] = quartiles(rounds.iter().map(|runs| value(runs)));
        let spread = format!(
            "{asked}; median of {} rounds, half of them between {low:.3} and {high:.3}{note}",
            rounds.len()
        );
        figure(name, middle, unit, &spread)
    };
    let mut figures = Vec::new();
    for (index, name) in names.iter().enumerate() {
        figures.extend([
            each(&format!("{name}: output"), "tokens/s", "", &|runs| {
                runs[index].pace.tokens_per_s
            }),
            each(&format!("{name}: first token"), "ms", "", &|runs| {
                runs[index].pace.first_ms
            }),
            each(&format!("{name}: processor"), "ms/token", "", &|runs| {
                runs[index].cpu_ms_per_token
            }),
        ]);
    }
    let least = format!("; target {target} or more");
    let latest = "; target 5 or less with one at a time";
    for (peer, name) in [(0, "the bare loop"), (1, "llama.cpp's server")] {
        for (ours, how) in [(2, "asked at home"), (3, "paid")] {
            let title = format!("{how} against {name}, output");
            figures.push(each(&title, "ratio", &least, &|runs| {
                runs[ours].pace.tokens_per_s / runs[peer].pace.tokens_per_s
            }));
            let title = format!("{how} after {name}, first token");
            figures.push(each(&title, "ms", latest, &|runs| {
                runs[ours].pace.first_ms - runs[peer].pace.first_ms
            }));
        }
    }
    figures
}

/// Words that no other stream and no other round begins with.
fn prompt(round: u64, stream: usize) -> String {
    format!(
        "{round}-{stream}: tell a long story of a lighthouse, its keeper, the storm of that winter, and what the \
         sea brought to the door in the morning when the wind was gone."
    )
}

fn merge(question: &mut Value, extra: &Value) {
    for (name, value) in extra.as_object().into_iter().flatten() {
        question[name] = value.clone();
    }
    // Nobody cuts the distribution: then all sides choose from the same one.
    question["temperature"] = json!(1.0);
    question["top_p"] = json!(1.0);
}

/// Asks all at once, a connection each.
fn ask_together(url: &str, questions: Vec<Value>) -> Result<Pace> {
    let started = Instant::now();
    let heard: Vec<Result<Heard>> = thread::scope(|scope| {
        let asking: Vec<_> = questions
            .iter()
            .map(|question| scope.spawn(|| ask_openai(url, question, |_| Ok(()))))
            .collect();
        asking
            .into_iter()
            .map(|asking| asking.join().expect("asking does not panic"))
            .collect()
    });
    let seconds = started.elapsed().as_secs_f64();
    let heard = heard.into_iter().collect::<Result<Vec<_>>>()?;
    let tokens: u64 = heard.iter().map(|heard| heard.tokens).sum();
    let first = heard.iter().filter_map(|heard| heard.first_s);
    let first_s = first.fold(f64::INFINITY, f64::min);
    ensure!(first_s.is_finite(), "{url} answered without a word");
    Ok(Pace {
        tokens_per_s: tokens as f64 / seconds,
        first_ms: first_s * 1e3,
    })
}

/// What some processes have had of the processor's time so far, in milliseconds.
fn cpu_ms(processes: &[u32]) -> Result<f64> {
    // Linux counts in hundredths of a second, whatever the machine.
    const TICK_MS: f64 = 10.0;
    let mut ticks = 0;
    for id in processes {
        let stat = fs::read_to_string(format!("/proc/{id}/stat"))
            .context("the processor's time is measured on Linux only")?;
        // The name, in parentheses, may hold anything; after it, user and system time are the 12th and 13th field.
        let (_, fields) = stat.rsplit_once(')').context("a process has a name")?;
        let fields: Vec<&str> = fields.split_whitespace().collect();
        for index in [11, 12] {
            let field = fields.get(index).context("a process has its times")?;
            ticks += field.parse::<u64>()?;
        }
    }
    Ok(ticks as f64 * TICK_MS)
}
