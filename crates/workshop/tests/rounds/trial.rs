//! A small run: a text that is made up, a dataset of it, a manifest, and devices that train.

use std::fs;
use std::ops::ControlFlow;
use std::path::PathBuf;

use hearth_datasets::import::{Import, TokenizerChoice, import};
use hearth_datasets::manifest::Label;
use hearth_protocol::content::ContentHash;
use hearth_protocol::run::manifest::{
    AdamWSettings, AuditSettings, CompressionSettings, DatasetShare, EvaluationSettings, Fraction,
    InnerSettings, ModelShape, MuonSettings, OptimizerSettings, OuterSettings, RateSettings,
    RoundSettings, RunManifest, RunShares, RunStart,
};
use hearth_workshop::{
    Admitted, Checkpoint, Limits, LocalState, StepProgress, Stored, TrainerId, Verdict, Work,
    WorkOrder, Workshop,
};
use tempfile::TempDir;

pub(crate) const RUN: [u8; 32] = [7; 32];
pub(crate) const LIMITS: Limits = Limits {
    memory_bytes: 1 << 30,
    threads: 2,
};

/// Datasets on the disk.
pub(crate) struct Library {
    _room: TempDir,
    pub(crate) folders: Vec<PathBuf>,
    pub(crate) ids: Vec<ContentHash>,
    pub(crate) vocabulary: u32,
}

/// Sentences of few words, so that a small model learns something in few steps.
fn sentences(seed: u32, documents: usize) -> String {
    let words = [
        ["the fox", "a bird", "the old man", "my neighbor"],
        ["sees", "likes", "hears", "follows"],
        ["a tree", "the river", "one house", "some snow"],
    ];
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as usize % 4
    };
    let mut text = String::new();
    for _ in 0..documents {
        let mut document = String::new();
        for _ in 0..8 {
            for part in &words {
                document.push_str(part[next()]);
                document.push(' ');
            }
            document.push_str("and then ");
        }
        text.push_str(&format!("{{\"text\":\"{}\"}}\n", document.trim_end()));
    }
    text
}

/// Two datasets of one tokenizer.
pub(crate) fn library() -> Library {
    let room = tempfile::tempdir().unwrap();
    let mut library = Library {
        folders: Vec::new(),
        ids: Vec::new(),
        vocabulary: 0,
        _room: room,
    };
    let mut tokenizer = TokenizerChoice::Train(288);
    for (name, seed, documents) in [("lines", 1, 240), ("verses", 2, 160)] {
        let file = library._room.path().join(format!("{name}.jsonl"));
        fs::write(&file, sentences(seed, documents)).unwrap();
        let label = Label {
            name: name.to_owned(),
            description: "Made up".to_owned(),
            license: "CC0-1.0".to_owned(),
            ..Label::default()
        };
        let mut order = Import::of(vec![file], label, tokenizer);
        order.held_out_per_mille = 200;
        order.shard_tokens = 4_096;
        let folder = library._room.path().join(name);
        let imported = import(&order, &folder, &mut |_| {}).unwrap();
        library.vocabulary = imported.manifest.tokens.vocabulary;
        library.ids.push(ContentHash(imported.id.0));
        tokenizer = TokenizerChoice::Load(fs::read(folder.join("tokenizer.json")).unwrap());
        library.folders.push(folder);
    }
    library
}

pub(crate) fn fraction(value: f32) -> Fraction {
    Fraction::new(value).unwrap()
}

pub(crate) fn adamw() -> AdamWSettings {
    AdamWSettings {
        rate: RateSettings {
            peak: fraction(5e-3),
            warmup_steps: 2,
            decay_from_step: 20,
            decay_steps: 40,
            floor: fraction(0.5),
        },
        beta1: fraction(0.9),
        beta2: fraction(0.95),
        epsilon: fraction(1e-8),
        decay: fraction(0.1),
    }
}

pub(crate) fn muon() -> MuonSettings {
    MuonSettings {
        rate: RateSettings {
            peak: fraction(0.02),
            warmup_steps: 0,
            decay_from_step: 0,
            decay_steps: 0,
            floor: fraction(0.0),
        },
        momentum: fraction(0.9),
        decay: fraction(0.0),
        rest: adamw(),
    }
}

/// A run that carries, sends the largest values, and has an outer momentum.
pub(crate) fn manifest(library: &Library) -> RunManifest {
    let share = |(index, id): (usize, &ContentHash)| DatasetShare {
        id: *id,
        weight: 3 - 2 * index as u32,
    };
    RunManifest {
        name: "trial".to_owned(),
        description: String::new(),
        license: "CC0-1.0".to_owned(),
        model: ModelShape {
            vocabulary: library.vocabulary,
            width: 32,
            layers: 2,
            query_heads: 4,
            key_value_heads: 2,
            head: 8,
            hidden: 88,
            context: 32,
            rope_theta: fraction(10_000.0),
            norm_epsilon: fraction(1e-5),
            tied_head: true,
        },
        start: RunStart::Fresh { seed: 11 },
        adapter: None,
        datasets: library.ids.iter().enumerate().map(share).collect(),
        inner: InnerSettings {
            window_tokens: 24,
            windows: 4,
            optimizer: OptimizerSettings::AdamW(adamw()),
            clip_norm: fraction(1.0),
        },
        round: RoundSettings {
            steps: 8,
            steps_min: 3,
            quorum: 1,
            trainers_max: 4,
            grace_s: 1,
            attempt_s: 1,
            carry: true,
        },
        compression: CompressionSettings::TopK {
            k: 1_024,
            decay: fraction(0.95),
        },
        outer: OuterSettings {
            rate: fraction(1.0),
            momentum: Some(fraction(0.3)),
        },
        audit: AuditSettings {
            per_mille: 100,
            newcomer_rounds: 1,
        },
        evaluation: EvaluationSettings { windows: 12 },
        shares: RunShares {
            trainers: 800,
            validators: 100,
            funders: 100,
        },
        rounds: 1_000,
    }
}

/// One that resets, sends everything in four bits, turns matrices, and has no outer momentum.
pub(crate) fn other_manifest(library: &Library) -> RunManifest {
    let mut manifest = manifest(library);
    manifest.datasets.truncate(1);
    manifest.inner.optimizer = OptimizerSettings::Muon(muon());
    manifest.round.carry = false;
    manifest.compression = CompressionSettings::Dense4 {
        decay: fraction(0.0),
    };
    manifest.outer.momentum = None;
    manifest
}

pub(crate) fn open(library: &Library, manifest: &RunManifest) -> Workshop {
    Workshop::open(manifest, &library.folders, None, LIMITS).unwrap()
}

pub(crate) fn go_on(_: StepProgress) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

pub(crate) fn trainer(number: u8) -> TrainerId {
    TrainerId([number; 32])
}

/// The order of a trainer in a round, for all steps.
pub(crate) fn order<'a>(
    number: u8,
    round: u32,
    parent: &'a Checkpoint,
    local: Option<LocalState>,
) -> WorkOrder<'a> {
    WorkOrder {
        run: RUN,
        round,
        beacon: [round as u8 + 1; 32],
        trainer: trainer(number),
        parent,
        local,
        steps: 8,
    }
}

/// What a trainer has done: its work, and the file of its local state.
pub(crate) struct Done {
    pub(crate) work: Work,
    pub(crate) local: Vec<u8>,
}

pub(crate) fn train(workshop: &Workshop, order: WorkOrder<'_>) -> Done {
    let mut local = Vec::new();
    let work = workshop.train(order, &mut local, &mut go_on).unwrap();
    Done { work, local }
}

pub(crate) fn replay(workshop: &Workshop, order: WorkOrder<'_>, done: &Done) -> Verdict {
    workshop
        .replay(order, &done.work.claim, &mut go_on)
        .unwrap()
}

/// Reads what a trainer took along.
pub(crate) fn local(workshop: &Workshop, done: &Done) -> Option<LocalState> {
    let bytes = &mut done.local.as_slice();
    workshop
        .manifest()
        .round
        .carry
        .then(|| workshop.read_local_state(bytes).unwrap())
}

pub(crate) fn admitted<'a>(number: u8, steps: u32, contribution: &'a [u8]) -> Admitted<'a> {
    Admitted {
        trainer: trainer(number),
        steps,
        contribution: Stored::Bytes(contribution),
    }
}

pub(crate) fn aggregate(
    workshop: &Workshop,
    parent: &Checkpoint,
    round: u32,
    admitted: &[Admitted<'_>],
) -> Checkpoint {
    let parent = parent.clone();
    workshop
        .aggregate(parent, round, admitted, &mut go_on)
        .unwrap()
}

pub(crate) fn file(workshop: &Workshop, checkpoint: &Checkpoint) -> Vec<u8> {
    let mut bytes = Vec::new();
    let name = workshop.write_checkpoint(checkpoint, &mut bytes).unwrap();
    assert_eq!(name, checkpoint.hash());
    assert_eq!(name, ContentHash::of(&bytes));
    bytes
}
