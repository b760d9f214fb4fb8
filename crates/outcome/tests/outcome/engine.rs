//! llama.cpp runs what is written, and computes what training computes.

use std::fs::File;
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use hearth_datasets::tokenizer::ByteTokenizer;
use hearth_models::asker::Asker;
use hearth_models::engine::{Engine, EngineOptions};
use hearth_models::prompt::PromptInput;
use hearth_models::reader::{self, Launcher};
use hearth_models::template::{ChatTemplate, Conversation, Message};
use hearth_outcome::gguf::{Precision, read_model_file, write_adapter, write_model};
use hearth_outcome::{PLAIN_TEMPLATE, TrainedAdapter, merge};
use hearth_training::{
    AdamW, Adapter, AdapterLayout, Architecture, Layout, Optimizer, Path as Instructions,
    RateSchedule, Target, Trainer, Training, Weights,
};

use super::{Whole, architecture, label, lively, tokenizer};

/// This test program, as a reader. With one thread, or it says after a minute that a test is slow.
fn launcher() -> Launcher {
    let arguments = [
        "--exact",
        "engine::serves_as_a_reader",
        "--nocapture",
        "--test-threads=1",
    ];
    Launcher::this_program(arguments).unwrap()
}

/// Not a test: what a process does that was started by [`launcher`].
#[test]
fn serves_as_a_reader() {
    if reader::is_reader() {
        hearth_models::serve_as_reader();
        std::process::exit(0);
    }
}

fn options() -> EngineOptions {
    EngineOptions {
        threads: 1,
        context_tokens: 256,
        sequences_max: 1,
        gpu_layers: 0,
        ..EngineOptions::default()
    }
}

fn open(path: &Path) -> Engine {
    Engine::load(path, options(), &launcher()).unwrap()
}

/// The logits after each of some tokens, one row after the other.
async fn logits(engine: &Engine, tokens: &[u32]) -> Vec<f32> {
    let rows = Arc::new(Mutex::new(Vec::new()));
    let seen = rows.clone();
    let visit = Box::new(move |_, logits: &[f32]| seen.lock().unwrap().extend_from_slice(logits));
    let positions = (0..tokens.len() as u32).collect();
    let asker = Asker::Household { name: 1 };
    engine
        .logits(asker, tokens.to_vec(), positions, visit)
        .await
        .unwrap();
    std::mem::take(&mut *rows.lock().unwrap())
}

fn training(tokens: usize) -> Training {
    Training {
        tokens,
        windows: 1,
        windows_together: 1,
        optimizer: Optimizer::AdamW(AdamW {
            rate: RateSchedule::constant(1e-3),
            beta1: 0.9,
            beta2: 0.95,
            epsilon: 1e-8,
            decay: 0.0,
        }),
        clip_norm: 1.0,
        threads: 1,
        path: Instructions::fastest(),
    }
}

fn trained_logits(layout: &Arc<Layout>, weights: &Weights, tokens: &[u32]) -> Vec<f32> {
    let training = training(tokens.len());
    let mut trainer = Trainer::start(layout, weights.clone(), training).unwrap();
    trainer.logits_of(tokens).unwrap()
}

/// Tokens that come up again at other places.
fn passage() -> Vec<u32> {
    (0..48u32)
        .map(|place| (place * place * 7 + 3) % 290)
        .collect()
}

fn write_file(folder: &Path, name: &str, whole: &Whole, precision: Precision) -> PathBuf {
    let path = folder.join(name);
    let mut out = BufWriter::new(File::create(&path).unwrap());
    let written = write_model(&whole.model(), precision, &mut out).unwrap();
    assert_eq!(written, std::fs::metadata(&path).unwrap().len());
    path
}

fn farthest(ours: &[f32], theirs: &[f32]) -> f32 {
    assert_eq!(ours.len(), theirs.len());
    let apart = ours.iter().zip(theirs).map(|(a, b)| (a - b).abs());
    apart.fold(0.0, f32::max)
}

fn spread(logits: &[f32]) -> f32 {
    let most = logits.iter().copied().fold(f32::MIN, f32::max);
    most - logits.iter().copied().fold(f32::MAX, f32::min)
}

/// Writes a model, runs it, and compares what comes of it.
async fn assert_runs_alike(architecture: Architecture, seed: u64) {
    let folder = tempfile::tempdir().unwrap();
    let whole = Whole::new(architecture, seed);
    let tokens = passage();
    let ours = trained_logits(&whole.layout, &whole.weights, &tokens);
    // If places did not count, a wrong order of rows would not be found.
    let mut other = tokens.clone();
    other[..40].reverse();
    let reversed = trained_logits(&whole.layout, &whole.weights, &other);
    let last = ours.len() - architecture.vocabulary..;
    assert!(farthest(&ours[last.clone()], &reversed[last]) > 0.2);
    assert!(spread(&ours) > 2.0, "{}", spread(&ours));
    for (precision, most) in [
        (Precision::F32, 1e-2),
        (Precision::F16, 3e-2),
        (Precision::Q8_0, 0.5),
    ] {
        let path = write_file(folder.path(), "model.gguf", &whole, precision);
        let theirs = logits(&open(&path), &tokens).await;
        let apart = farthest(&ours, &theirs);
        println!("{precision:?}: {apart}");
        assert!(apart < most, "{precision:?}: {apart}");
    }
}

#[tokio::test]
async fn a_model_with_a_head_of_its_own_runs_as_it_was_trained() {
    assert_runs_alike(architecture(), 1).await;
}

#[tokio::test]
async fn a_model_with_a_tied_head_and_one_key_for_all_heads_runs_as_it_was_trained() {
    let architecture = Architecture {
        tied_head: true,
        key_value_heads: 1,
        rope_theta: 500.0,
        ..architecture()
    };
    assert_runs_alike(architecture, 2).await;
}

#[tokio::test]
async fn a_model_whose_heads_are_wider_than_itself_runs_as_it_was_trained() {
    let architecture = Architecture {
        query_heads: 6,
        key_value_heads: 3,
        head: 32,
        ..architecture()
    };
    assert_runs_alike(architecture, 3).await;
}

#[tokio::test]
async fn an_adapter_over_its_base_runs_as_it_was_trained() {
    let folder = tempfile::tempdir().unwrap();
    let whole = Whole::new(architecture(), 4);
    let tokens = passage();
    let base = write_file(folder.path(), "base.gguf", &whole, Precision::F32);
    for alpha in [3.0, 9.0] {
        let adapter = Adapter {
            rank: 6,
            alpha,
            targets: Target::ALL.to_vec(),
        };
        let layout = Arc::new(AdapterLayout::new(&whole.layout, adapter).unwrap());
        let weights = lively(layout.tensors(), 5);
        let under = (&layout, weights.clone());
        let training = training(tokens.len());
        let started = Trainer::start_adapter(&whole.layout, whole.weights.clone(), under, training);
        let ours = started.unwrap().logits_of(&tokens).unwrap();
        let bare = trained_logits(&whole.layout, &whole.weights, &tokens);
        assert!(farthest(&ours, &bare) > 0.5);

        let path = folder.path().join("adapter.gguf");
        let written = TrainedAdapter {
            base: &whole.layout,
            layout: &layout,
            weights: &weights,
            label: &label(),
        };
        write_adapter(&written, &mut File::create(&path).unwrap()).unwrap();
        let engine = Engine::load_adapted(&base, &path, options(), &launcher()).unwrap();
        let theirs = logits(&engine, &tokens).await;
        let apart = farthest(&ours, &theirs);

        // llama.cpp keeps keys and values in half precision, which costs more where they are larger: as much with the
        // adapter worked into the weights.
        let one = Whole {
            weights: merge(&whole.weights, &layout, &weights).unwrap(),
            ..Whole::new(architecture(), 4)
        };
        let path = write_file(folder.path(), "merged.gguf", &one, Precision::F32);
        let worked_in = logits(&open(&path), &tokens).await;
        let without = farthest(&ours, &worked_in);
        let both = farthest(&theirs, &worked_in);
        println!(
            "alpha {alpha}: {apart}, worked in {without}, between them {both}; {}",
            spread(&ours)
        );
        assert!(both < 2e-3, "{both}");
        assert!(apart < without + 2e-3, "{apart}, worked in {without}");
        if alpha == 3.0 {
            assert!(apart < 1e-2, "{apart}");
        }
    }
    // A model in the place of an adapter is refused.
    assert!(Engine::load_adapted(&base, &base, options(), &launcher()).is_err());
}

/// The ids of a text, as a node makes them of a prompt.
fn ids(engine: &Engine, text: &str) -> Vec<u32> {
    let text = text.to_owned();
    let input = PromptInput::Text {
        text,
        special: false,
    };
    engine.prompts().blocking_ids(&input, 0).unwrap()
}

const TEXTS: [&str; 6] = [
    "the hedgehog walks through the garden",
    "It's 1984, and 12345678 things  happen:\n\n\tfür alle 🔥 <|endoftext|>!",
    "  two blanks, a tab\t and\r\nother ends of lines   \n",
    "don't I'LL we've",
    "数字 ½ and ١٢٣",
    " ",
];

fn assert_same_tokens(engine: &Engine, tokenizer: &ByteTokenizer) {
    for text in TEXTS {
        let mut ours = Vec::new();
        tokenizer.encode(text, &mut ours).unwrap();
        assert_eq!(ours.pop(), Some(tokenizer.end_of_text()));
        assert_eq!(ids(engine, text), ours, "{text:?}");
    }
}

#[test]
fn texts_become_the_tokens_that_the_model_was_trained_on() {
    let folder = tempfile::tempdir().unwrap();
    let whole = Whole::new(architecture(), 6);
    let path = write_file(folder.path(), "model.gguf", &whole, Precision::F32);
    let engine = open(&path);
    assert_same_tokens(&engine, &tokenizer());
    let end = tokenizer().end_of_text();
    assert!(engine.vocabulary().is_end_of_text(end));
}

#[test]
fn a_model_that_nobody_taught_to_converse_goes_on_with_the_last_message() {
    let template = ChatTemplate::new(PLAIN_TEMPLATE, "", "").unwrap();
    let message = |role: &str, content: &str| Message {
        role: role.to_owned(),
        content: content.to_owned(),
        ..Message::default()
    };
    let messages = [
        message("system", "Be kind."),
        message("user", "Once upon a time"),
    ];
    let conversation = Conversation {
        messages: &messages,
        add_generation_prompt: true,
        ..Conversation::default()
    };
    assert_eq!(template.render(&conversation).unwrap(), "Once upon a time");
}

#[tokio::test]
#[ignore = "needs outside programs"]
async fn a_published_model_is_read_as_llama_cpp_runs_it() {
    let path = std::env::var_os("HEARTH_TEST_MODEL");
    let path = PathBuf::from(path.expect("HEARTH_TEST_MODEL names the test model"));
    let base = read_model_file(&path).unwrap();
    let vocabulary = base.vocabulary.clone().unwrap();
    let engine = open(&path);

    // What is imported for it has the tokens with which it answers.
    let tokenizer = ByteTokenizer::load(vocabulary.to_tokenizer_json()).unwrap();
    assert_same_tokens(&engine, &tokenizer);

    let tokens = ids(
        &engine,
        "The capital of France is Paris, and the capital of Italy is",
    );
    // An adapter that is zero everywhere keeps the training small.
    let adapter = Adapter {
        rank: 1,
        alpha: 1.0,
        targets: vec![Target::Query],
    };
    let layout = Arc::new(AdapterLayout::new(&base.layout, adapter).unwrap());
    let under = (&layout, Weights::fresh(layout.tensors(), 1));
    let training = training(tokens.len());
    let started = Trainer::start_adapter(&base.layout, base.weights.clone(), under, training);
    let ours = started.unwrap().logits_of(&tokens).unwrap();
    let width = base.layout.architecture().vocabulary;

    // Written in single precision, nothing is rounded but keys and values.
    let folder = tempfile::tempdir().unwrap();
    let whole = Whole {
        layout: base.layout,
        weights: base.weights,
        vocabulary,
        label: label(),
    };
    let again = write_file(folder.path(), "again.gguf", &whole, Precision::F32);
    let theirs = logits(&open(&again), &tokens).await;
    let apart = farthest(&ours, &theirs);
    println!("{apart} of {}", spread(&ours));
    assert!(apart < 5e-2, "{apart}");

    // Over the file's own blocks, llama.cpp rounds what each layer is given to eight bits too.
    let theirs = logits(&engine, &tokens).await;
    for (place, (ours, theirs)) in ours.chunks(width).zip(theirs.chunks(width)).enumerate() {
        let dot = |a: &[f32], b: &[f32]| -> f64 {
            let products = a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b));
            products.sum()
        };
        let cosine = dot(ours, theirs) / (dot(ours, ours) * dot(theirs, theirs)).sqrt();
        println!("{place}: {cosine}");
        assert!(cosine > 0.99, "{place}: {cosine}");
    }
}
